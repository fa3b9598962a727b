"""vLLM, as the engine of a run, gives the answers that the trainer's own generation gives."""

from typing import Any

import pytest

from tests.runner import Runner
from tests.serving.environment import folder, vllm_program

_ARMS = ["FullPrompt", "QueryOnly", "Direct", "Base"]


@pytest.mark.timeout(2400)
def test_a_run_with_vllm_answers_as_one_without(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers begin with white space that a stop string matches, and the adapter of each stage is another one."""
    if vllm_program() is None:
        pytest.skip("vLLM is not installed; `make serving` installs it")
    monkeypatch.setenv("PROMPTINTERN_VLLM_PYTHON", str(folder() / "bin/python"))
    answers: dict[str, dict[str, list[str]]] = {}
    for engine in ("PyTorch", "VLLM"):
        job = sample_job(engine)
        ran = runner.run(job)
        assert ran.code == 0, ran.err
        answers[engine] = {arm: runner.predictions(arm, job=job["metadata"]["name"]) for arm in _ARMS}
        versions = runner.report(job=job["metadata"]["name"])["reproducibility"]["versions"]
        assert ("vllm" in versions) == (engine == "VLLM")
    pairs = [
        (arm, ours, theirs)
        for arm in _ARMS
        for ours, theirs in zip(answers["PyTorch"][arm], answers["VLLM"][arm], strict=True)
    ]
    different = [pair for pair in pairs if pair[1] != pair[2]]
    for arm, ours, theirs in different:
        print(f"{arm}: PyTorch {ours!r}, vLLM {theirs!r}")
    assert len(set(pairs)) > len(pairs) // 2, "the answers must differ, or a mistake would not show"
    assert len(different) <= 0.01 * len(pairs)


def sample_job(engine: str) -> dict[str, Any]:
    """Return a job that internalizes a short prompt in two stages."""
    template = "Write the formula of the question. Write the function first, then its columns.\n{examples}{query}\n="
    return {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": f"answered-by-{engine.lower()}"},
        "spec": {
            "model": {"uri": "sample://formulas", "dtype": "float32"},
            "data": {
                "train": {"uri": "sample://formulas/train?world=1&rows=32"},
                "eval": {"uri": "sample://formulas/eval?world=1&rows=64"},
            },
            "prompt": {"template": template, "exampleTemplate": "{query}\n= {answer}\n", "protect": ["\n="]},
            "schedule": {
                "explicit": [
                    {"templateRate": 1, "shots": 2, "epochs": 2},
                    {"templateRate": 0, "shots": 0, "epochs": 6},
                ]
            },
            "training": {"lora": {"r": 4, "alpha": 8}, "learningRate": 0.002, "rowsPerBatch": 16},
            "evaluation": {
                "maxNewTokens": 12,
                "stop": [" ", "\n"],
                "stageRows": 16,
                "latencyQueries": 0,
                "arms": _ARMS,
                "engine": engine,
            },
            "compute": {"device": "CPU"},
        },
    }
