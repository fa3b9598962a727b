"""The teaching pass: killed at any moment and continued, it leaves the same files, and the run the same adapter."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from promptintern.pipeline.teaching.teaching_pass import SHARD_ROWS
from promptintern.sample import sample_rows
from promptintern.sample.job import build_job
from safetensors.numpy import load_file

from tests.integration.run.process import adapters, finish, report, run_command, run_folder, run_to_end, start, stop_at

QUERIES = 2 * SHARD_ROWS + 40
POINTS = 10 if "PROMPTINTERN_KILL_POINTS" in os.environ else 2
"""The number of random moments; `make kill` has 10."""
draw = random.Random(20261129)
SHARES = [draw.random() for _ in range(POINTS)]
"""The moments, as shares of the number of committed shards, of which the fraction is a share of a second."""


def teacher_job(folder: Path, **teacher: Any) -> Path:
    """Write a job that learns a sample world from queries without answers, in one short stage."""
    job = build_job(world=3, rows=20, name="taught")
    spec = job["spec"]
    spec["data"] = {
        "queries": {"uri": f"sample://formulas/queries?world=3&rows={QUERIES}"},
        "eval": {"uri": "sample://formulas/eval?world=3&rows=20"},
    }
    spec["schedule"] = {"explicit": [{"templateRate": 0, "shots": 0, "epochs": 1}]}
    spec["evaluation"] |= {"arms": ["FullPrompt", "QueryOnly"], "latencyQueries": 0, "stageRows": 2}
    if teacher:
        spec["training"]["teacher"] = teacher
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def shards(workdir: Path) -> dict[str, bytes]:
    """Return the committed files of all shards, by teacher, shard and name."""
    folder = run_folder(workdir)
    assert folder is not None
    files = {}
    for manifest in sorted(folder.glob("teacher/*/*/manifest.json")):
        document = json.loads(manifest.read_text())
        for name in document["files"]:
            files[f"{manifest.parent.parent.name}/{manifest.parent.name}/{name}"] = (
                manifest.parent / f"t{document['term']}" / name
            ).read_bytes()
    return files


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def undisturbed(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    ended = run_to_end(job, workdir)
    assert ended.code == 0, ended.text
    assert f"the teacher answered {QUERIES} of {QUERIES} queries" in ended.text
    assert "Direct" not in ended.text, "without written answers, there is nothing that Direct could learn from"
    return workdir


def test_every_query_has_an_answer_and_a_distribution_at_each_of_its_tokens(undisturbed: Path, tmp_path: Path) -> None:
    files = shards(undisturbed)
    assert len(files) == 2 * 3
    for shard in range(3):
        answers = json.loads(files[f"base/{shard:06d}/answers.json"])["answers"]
        first = shard * SHARD_ROWS
        assert [a["row"] for a in answers] == list(range(first, min(first + SHARD_ROWS, QUERIES)))
        path = tmp_path / f"{shard}.safetensors"
        path.write_bytes(files[f"base/{shard:06d}/distributions.safetensors"])
        tensors = load_file(path)
        tokens = [token for answer in answers for token in answer["tokens"]]
        assert tensors["ids"].shape[0] == len(tokens)
        assert np.allclose(np.exp(tensors["log_probs"].astype(np.float64)).sum(1), 1, atol=1e-5)
        # The answers are greedy, so each token is the most likely one, except for ties within rounding.
        assert np.mean(tensors["ids"][:, 0] == tokens) > 0.99


@pytest.mark.parametrize("share", SHARES)
def test_killed_in_the_teaching_pass_and_continued(share: float, job: Path, undisturbed: Path, tmp_path: Path) -> None:
    committed = int(share * 3)

    def reached(folder: Path, _seconds: float) -> bool:
        return (folder / "terms/1.json").exists() and len(
            list(folder.glob("teacher/base/*/manifest.json"))
        ) >= committed

    process = start(job, tmp_path)
    delay = (share * 3) % 1
    assert stop_at(process, tmp_path, lambda f, s: reached(f, s) and _slept(delay), signal.SIGKILL)
    finish(process)
    assert len(list(tmp_path.glob("*/*/teacher/base/*/manifest.json"))) < 3, "the pass had ended before the kill"
    ended = run_to_end(job, tmp_path)
    assert ended.code == 0, ended.text
    assert shards(tmp_path) == shards(undisturbed)
    assert adapters(tmp_path) == adapters(undisturbed)


def _slept(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def test_a_stopped_pass_continues_with_the_next_shard(job: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = start(job, tmp_path)
    assert stop_at(process, tmp_path, lambda f, _: any(f.glob("teacher/base/*/manifest.json")), signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == 128 + signal.SIGTERM, stopped.text
    ended = run_to_end(job, tmp_path)
    assert ended.code == 0, ended.text
    assert shards(tmp_path) == shards(undisturbed)
    assert adapters(tmp_path) == adapters(undisturbed)


def test_two_workers_share_the_pass(job: Path, undisturbed: Path, tmp_path: Path) -> None:
    ended = run_command(job, tmp_path, "--workers", "2")
    assert ended.code == 0, ended.text
    answers, alone = (
        {name: data for name, data in shards(workdir).items() if name.endswith("answers.json")}
        for workdir in (tmp_path, undisturbed)
    )
    assert answers == alone


STAGES = (
    {"templateRate": 1, "shots": 2, "epochs": 1},
    {"templateRate": 0.5, "shots": 1, "epochs": 1},
    {"templateRate": 0, "shots": 0, "epochs": 1},
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job whose second and third stage learn from the stage before them, on 20 rows and 276 queries."""
    folder = tmp_path_factory.mktemp("chain")
    job = yaml.safe_load(teacher_job(folder, model="PreviousStage").read_text())
    job["spec"]["data"] |= {
        "train": {"uri": "sample://formulas/train?world=3&rows=20"},
        "queries": {"uri": f"sample://formulas/queries?world=3&rows={SHARD_ROWS + 40}"},
    }
    job["spec"]["schedule"] = {"explicit": list(STAGES)}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.fixture(scope="module")
def undisturbed_chain(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    ended = run_to_end(chain, workdir)
    assert ended.code == 0, ended.text
    stages = report(workdir)["stages"]
    assert [stage.get("teacher") for stage in stages] == [None, "stage 1", "stage 2"]
    assert [stage["rows"] for stage in stages] == [20, 296, 296]
    return workdir


@pytest.mark.parametrize("teacher", ["stage-0", "stage-1"])
def test_killed_while_a_stage_teaches_and_continued(
    teacher: str, chain: Path, undisturbed_chain: Path, tmp_path: Path
) -> None:
    process = start(chain, tmp_path)
    assert stop_at(process, tmp_path, lambda f, _: any(f.glob(f"teacher/{teacher}/*/manifest.json")), signal.SIGKILL)
    finish(process)
    assert len(list(tmp_path.glob(f"*/*/teacher/{teacher}/*/manifest.json"))) < 2, "the pass had ended before the kill"
    ended = run_to_end(chain, tmp_path)
    assert ended.code == 0, ended.text
    assert shards(tmp_path) == shards(undisturbed_chain)
    assert adapters(tmp_path) == adapters(undisturbed_chain)


def test_two_workers_learn_from_the_stages_before(chain: Path, tmp_path: Path) -> None:
    ended = run_command(chain, tmp_path, "--workers", "2")
    assert ended.code == 0, ended.text
    stages = report(tmp_path)["stages"]
    assert [stage.get("teacher") for stage in stages] == [None, "stage 1", "stage 2"]


def test_an_earlier_stage_than_the_newest_may_teach(chain: Path, tmp_path: Path) -> None:
    """The adapter of the best stage is loaded from storage, while that of the newest stage is in memory."""
    job = yaml.safe_load(chain.read_text())
    spec = job["spec"]
    spec["training"]["teacher"]["model"] = "BestStage"
    # The second stage has no template and learns nothing in one epoch, so the first one stays the best.
    spec["schedule"] = {
        "explicit": [
            {"templateRate": 1, "shots": 2, "epochs": 2},
            {"templateRate": 0, "shots": 1, "epochs": 1},
            {"templateRate": 0, "shots": 0, "epochs": 1},
        ]
    }
    spec["evaluation"]["stageRows"] = 20
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    ended = run_to_end(path, tmp_path / "runs")
    assert ended.code == 0, ended.text
    stages = report(tmp_path / "runs")["stages"]
    assert stages[1]["score"] < stages[0]["score"]
    assert [stage.get("teacher") for stage in stages] == [None, "stage 1", "stage 1"]
    answers = [text for name, text in sorted(shards(tmp_path / "runs").items()) if name.endswith("answers.json")]
    texts = {entry["row"]: entry["text"] for answer in answers for entry in json.loads(answer)["answers"]}
    rows = sample_rows(f"sample://formulas/train?world=3&rows={SHARD_ROWS + 40}")
    right = sum(texts.get(i + 20) == row["answer"] for i, row in enumerate(rows[20:]))
    assert right > 200, "the first stage, which has its whole prompt, gives right answers"


def test_stages_teach_without_any_query(chain: Path, tmp_path: Path) -> None:
    job = yaml.safe_load(chain.read_text())
    del job["spec"]["data"]["queries"]
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    ended = run_to_end(path, tmp_path / "runs")
    assert ended.code == 0, ended.text
    assert {name.split("/")[0] for name in shards(tmp_path / "runs")} == {"stage-0", "stage-1"}


@pytest.mark.parametrize("teacher", [{"loss": "Answers"}, {"loss": "JensenShannon", "topK": 8, "weight": 2}])
def test_other_losses(teacher: dict[str, Any], tmp_path: Path) -> None:
    job = teacher_job(tmp_path, **teacher)
    ended = run_to_end(job, tmp_path / "runs", "--set", "data.queries.uri=sample://formulas/queries?world=3&rows=64")
    assert ended.code == 0, ended.text
    has_distributions = any(name.endswith("distributions.safetensors") for name in shards(tmp_path / "runs"))
    assert has_distributions == (teacher["loss"] != "Answers")


def test_answers_that_do_not_end_are_left_out_and_nothing_is_left(tmp_path: Path) -> None:
    ended = run_to_end(teacher_job(tmp_path), tmp_path / "runs", "--set", "evaluation.maxNewTokens=2")
    assert ended.code == 2, ended.text
    assert "spec.data.queries: no query has an answer that can be learned" in ended.text.replace("\n", " ")
    assert "raise evaluation.maxNewTokens" in ended.text.replace("\n", " ")
    assert "Traceback" not in ended.text


def test_more_tokens_than_the_vocabulary_has(tmp_path: Path) -> None:
    ended = run_to_end(teacher_job(tmp_path, topK=4096), tmp_path / "runs")
    assert ended.code == 2, ended.text
    assert "spec.training.teacher.topK: is 4096, but the vocabulary of the base model has" in ended.text
    assert not list(tmp_path.glob("runs/*/*/teacher/*")), "the mistake is found before the teacher answers"


def test_a_log_of_queries_is_enough(tmp_path: Path) -> None:
    """Neither the queries nor the held-out rows have answers: every arm is compared with the full prompt."""
    changes = (
        "data.eval.uri=sample://formulas/queries?world=3&rows=640",
        "evaluation.reference=FullPrompt",
        "data.onLeak=Drop",
        "data.eval.limit=40",
    )
    settings = [part for change in changes for part in ("--set", change)]
    ended = run_to_end(teacher_job(tmp_path), tmp_path / "runs", *settings)
    assert ended.code == 0, ended.text
    assert "exact match with the answers of the full prompt" in " ".join(ended.text.split())
    document = report(tmp_path / "runs")
    assert document["reference"] == "FullPrompt"
    scores = {arm["name"]: arm["scores"]["ExactMatch"]["value"] for arm in document["arms"]}
    assert scores["FullPrompt"] == 1
    assert 0 < scores["QueryOnly"] <= 1
    assert {"reason": "leaked into eval", "rows": 40} in document["data"]["queries"]["dropped"]
