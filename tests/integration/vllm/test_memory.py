"""On a GPU, vLLM takes nearly all memory, so it has to end before anything else is computed there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.advice import VLLM_PYTHON
from promptintern.answering.vllm.engine import VllmEngine
from promptintern.answering.vllm.process import VllmProcess
from promptintern.engine.train import train_track
from promptintern.errors import RunFailed
from promptintern.pipeline import training
from promptintern.pipeline.teaching import teaching_pass
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.cli import write_job
from tests.runner import Runner
from tests.tiny import tiny_job, write_rows

QUERIES = 20
SHARD_ROWS = 4


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch, vllm_python: Path) -> list[VllmProcess]:
    """Make vLLM take the memory of this machine as if it were a GPU's, and list all processes."""
    monkeypatch.setenv(VLLM_PYTHON, str(vllm_python))
    monkeypatch.setattr(VllmEngine, "shares_memory", True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1, 2))
    started: list[VllmProcess] = []
    start = VllmProcess.__init__

    def note_start(self: VllmProcess, *arguments: Any, **settings: Any) -> None:
        start(self, *arguments, **settings)
        started.append(self)

    monkeypatch.setattr(VllmProcess, "__init__", note_start)
    return started


@pytest.fixture
def computed_beside(processes: list[VllmProcess]) -> Iterator[dict[bool, int]]:
    """Count the calls of modules, by whether vLLM held the memory."""
    calls = {True: 0, False: 0}

    def count(_module: torch.nn.Module, _inputs: Any) -> None:
        calls[any(process.end.alive for process in processes)] += 1

    hook = register_module_forward_pre_hook(count)
    yield calls
    hook.remove()


def vllm_job(folder: Path) -> dict[str, Any]:
    """Return a job in which everything is computed that a run can compute."""
    job = tiny_job(folder)
    spec = job["spec"]
    spec["data"]["queries"] = {"uri": f"file://{write_rows(folder / 'queries.jsonl', QUERIES, start=2000)}"}
    spec["schedule"] = {"stages": 2, "shots": 1}
    spec["training"]["teacher"] = {"model": "PreviousStage"}
    spec["evaluation"] |= {
        "engine": "VLLM",
        "arms": ["FullPrompt", "FullPromptTuned", "QueryOnly", "Direct", "Base"],
        "retention": {"data": {"uri": f"file://{folder / 'eval.jsonl'}"}},
    }
    return job


def test_nothing_is_computed_while_vllm_holds_the_memory(
    runner: Runner,
    processes: list[VllmProcess],
    computed_beside: dict[bool, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teaching_pass, "SHARD_ROWS", SHARD_ROWS)
    ran = runner.run(vllm_job(runner.folder))
    assert ran.code == 0, ran.err
    assert "retention: " in ran.err
    assert "timing 2 queries" in ran.err
    assert "vLLM generates the answers" in ran.err
    assert computed_beside[False] > 0
    assert computed_beside[True] == 0
    shards = len(list(runner.output.glob("teacher/*/*/manifest.json")))
    assert shards >= QUERIES // SHARD_ROWS
    assert len(processes) < shards, "vLLM must not start for each shard"
    assert runner.report()["reproducibility"]["versions"]["vllm"] == "0.0"


def test_an_estimate_trains_its_steps_without_vllm(
    runner: Runner, processes: list[VllmProcess], computed_beside: dict[bool, int]
) -> None:
    ran = runner("prepare", write_job(runner.folder, vllm_job(runner.folder)), "--estimate")
    assert ran.code == 0, ran.err
    assert len(processes) == 1
    assert computed_beside[False] > 0
    assert computed_beside[True] == 0


@pytest.mark.usefixtures("processes")
def test_a_stage_that_vllm_fails_to_answer_is_not_trained_again(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = vllm_job(runner.folder)
    del job["spec"]["data"]["queries"], job["spec"]["training"]["teacher"]
    answer, begun = VllmEngine.answer, list[tuple[int, int]]()

    def note_training(adapter: Any, optimizer: Any, task: Any, *, trajectory: Any, **settings: Any) -> bool:
        begun.append((trajectory.steps, len(task.steps)))
        return train_track(adapter, optimizer, task, trajectory=trajectory, **settings)

    def fail(self: VllmEngine, *arguments: Any, use_adapter: bool, **settings: Any) -> Any:
        if use_adapter:
            raise RunFailed("vLLM ended")
        return answer(self, *arguments, use_adapter=use_adapter, **settings)

    monkeypatch.setattr(training, "train_track", note_training)
    monkeypatch.setattr(VllmEngine, "answer", fail)
    failed = runner.run(job)
    assert failed.code != 0
    assert "vLLM ended" in failed.err
    ((_, steps),) = begun
    monkeypatch.setattr(VllmEngine, "answer", answer)
    assert runner.run(job).code == 0
    assert begun[:2] == [(0, steps), (steps, steps)]
