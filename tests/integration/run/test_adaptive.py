"""An adaptive schedule takes the same decisions, and leaves the same bits, if it is killed after any of them."""

import json
import signal
from pathlib import Path

import pytest
import yaml
from promptintern.sample.job import build_job

from tests.integration.run.process import adapters, finish, report, run_to_end, start, stop_at


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    document = build_job(world=3, rows=48, name="adaptive")
    spec = document["spec"]
    spec["data"]["eval"]["uri"] = "sample://formulas/eval?world=3&rows=24"
    spec["schedule"] = {"curve": "Adaptive", "stages": 5, "shots": 1}
    spec["training"]["epochsPerStage"] = 2
    spec["evaluation"] |= {"arms": ["FullPrompt", "QueryOnly"], "latencyQueries": 0, "stageRows": 24}
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def decisions(workdir: Path) -> list[tuple[int, bool]]:
    return [(stage["position"], stage["accepted"]) for stage in report(workdir)["stages"]]


@pytest.fixture(scope="module")
def undisturbed(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    ended = run_to_end(job, workdir)
    assert ended.code == 0, ended.text
    assert "stage 1 of at most 5: trained in" in ended.text
    return workdir


def test_it_goes_back_after_a_stage_whose_score_drops_and_ends_with_the_query_alone(undisturbed: Path) -> None:
    taken = decisions(undisturbed)
    assert taken[0] == (0, True)
    assert any(not accepted for _, accepted in taken), "the job is so short that a large step must fail"
    assert 16 in [position for position, _ in taken]
    card = next(undisturbed.glob("*/*/adapter/README.md")).read_text()
    assert "Send the query alone." in card
    assert "The gate stopped the run" not in card
    prompt = json.loads(next(undisturbed.glob("*/*/adapter/promptintern.json")).read_text())
    assert prompt["shots"] == 0
    document = report(undisturbed)
    assert document["verdict"]["arm"] == "QueryOnly"
    assert any("The schedule is adaptive" in note for note in document["notes"])
    scores = {stage["index"]: stage["score"] for stage in document["stages"]}
    positions = {stage["index"]: stage["position"] for stage in document["stages"]}
    start = 0
    for stage in document["stages"][1:]:
        is_smallest_step = stage["position"] == positions[start] + 1
        is_good_enough = scores[start] - stage["score"] <= document["gate"]["maxDrop"] + 1e-9
        assert stage["accepted"] == (is_smallest_step or is_good_enough)
        if stage["accepted"]:
            start = stage["index"]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_killed_after_a_decision_and_continued(stages: int, job: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = start(job, tmp_path)
    assert stop_at(process, tmp_path, lambda f, _: (f / f"stages/{stages - 1}/manifest.json").exists(), signal.SIGKILL)
    finish(process)
    ended = run_to_end(job, tmp_path)
    assert ended.code == 0, ended.text
    assert decisions(tmp_path) == decisions(undisturbed)
    assert adapters(tmp_path) == adapters(undisturbed)
