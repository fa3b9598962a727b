"""A job whose base model writes the queries: killed while it writes and continued, it leaves the same bits."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from promptintern.sample.job import build_job

from tests.integration.run.process import adapters, finish, report, run_command, run_folder, run_to_end, start, stop_at

COUNT = 40


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job with no rows and no log. The sample model cannot write queries, so at temperature 3 it writes noise."""
    document = build_job(world=3, queries=1, name="written")
    spec = document["spec"]
    spec["data"] = {
        "generate": {"count": COUNT, "temperature": 3, "maxNewTokens": 8, "minValid": 0.01},
        "eval": {"uri": "sample://formulas/eval?world=3&rows=12"},
    }
    spec["schedule"] = {"explicit": [{"templateRate": 0, "shots": 0, "epochs": 1}]}
    spec["evaluation"] |= {"arms": ["FullPrompt", "QueryOnly"], "latencyQueries": 0, "stageRows": 2}
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def written(workdir: Path) -> list[str]:
    folder = run_folder(workdir)
    assert folder is not None
    return [
        query
        for manifest in sorted(folder.glob("queries/*/manifest.json"))
        for path in sorted(manifest.parent.glob(f"t{json.loads(manifest.read_text())['term']}/queries.json"))
        for query in json.loads(path.read_text())["queries"]
    ]


@pytest.fixture(scope="module")
def undisturbed(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    ended = run_to_end(job, workdir)
    assert ended.code == 0, ended.text
    return workdir


def test_the_run_learns_from_what_the_base_model_wrote(undisturbed: Path) -> None:
    facts = report(undisturbed)["data"]["written"]
    queries = written(undisturbed)
    assert len(queries) == len(set(queries)) == facts["valid"] >= COUNT
    assert facts["drawn"] % 256 == 0
    assert 0 < facts["rows"] <= COUNT
    html = next(undisturbed.glob("*/*/report/report.html")).read_text()
    assert "Queries that the base model wrote" in html


def test_killed_while_the_base_model_writes_and_continued(job: Path, undisturbed: Path, tmp_path: Path) -> None:
    process = start(job, tmp_path)
    assert stop_at(process, tmp_path, lambda f, _: (f / "terms/1.json").exists(), signal.SIGKILL)
    finish(process)
    assert not list(tmp_path.glob("*/*/stages/*")), "the run was killed before the first stage"
    ended = run_to_end(job, tmp_path)
    assert ended.code == 0, ended.text
    assert written(tmp_path) == written(undisturbed)
    assert adapters(tmp_path) == adapters(undisturbed)


def test_two_workers_write_and_learn(job: Path, tmp_path: Path) -> None:
    ended = run_command(job, tmp_path, "--workers", "2")
    assert ended.code == 0, ended.text
    assert len(written(tmp_path)) >= COUNT


def test_prepare_shows_the_queries_and_says_if_a_run_would_be_refused(job: Path) -> None:
    arguments = ["prepare", str(job), "--set", "data.generate.minValid=1"]
    shown = subprocess.run(
        [sys.executable, "-m", "promptintern.cli.app", *arguments], capture_output=True, text=True, check=True
    )
    assert "written queries" in shown.stdout
    text = " ".join(shown.stdout.split())
    assert "a run may be refused: the base model wrote 40 queries" in text
    assert "\x1b" not in shown.stdout
