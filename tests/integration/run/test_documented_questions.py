"""A trained adapter gives the answers that the documentation shows, and `predict` imports only what it needs."""

from pathlib import Path

import pytest
import yaml
from promptintern.sample.job import build_job

from tests.cli import imported_modules, packages
from tests.documented import documented_questions
from tests.integration.run.process import run_folder, run_to_end

NOT_NEEDED = {"bm25s", "kubernetes", "matplotlib", "pandas", "pyarrow", "ray", "s3fs", "sacrebleu"}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that learned the world of the examples in one stage, from enough rows to know all of it."""
    folder = tmp_path_factory.mktemp("documented")
    job = build_job(world=1, rows=512, name="documented")
    spec = job["spec"]
    spec["data"]["eval"]["uri"] = "sample://formulas/eval?world=1&rows=4"
    spec["schedule"] = {"explicit": [{"templateRate": 0, "shots": 0, "epochs": 8}]}
    spec["training"] |= {"rowsPerBatch": 64, "learningRate": 0.004}
    spec["evaluation"] |= {"arms": ["FullPrompt", "QueryOnly"], "latencyQueries": 0}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    ended = run_to_end(folder / "job.yaml", folder / "runs")
    assert ended.code == 0, ended.text
    run = run_folder(folder / "runs")
    assert run is not None
    return run / "adapter"


def test_every_documented_question_gets_the_documented_answer(adapter: Path) -> None:
    questions = documented_questions()
    expected = {question.query: question.answer for question in questions if question.answer}
    assert {question.where for question in questions} >= {"README.md", "sample.md", "promptintern --help"}
    assert {question.query for question in questions} == set(expected), "a question is shown nowhere with its answer"

    output, modules = imported_modules("predict", adapter, *expected)
    assert dict(zip(expected, output.splitlines(), strict=True)) == expected
    assert packages(modules) & NOT_NEEDED == set()
