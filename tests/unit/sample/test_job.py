"""The sample jobs under examples/ are the output of the script."""

from pathlib import Path

import pytest
import yaml
from promptintern.sample.job import render_job
from promptintern_api import parse_job

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize(
    ("name", "rows", "queries"), [("quickstart", 128, 0), ("few-rows", 16, 0), ("queries-only", 0, 1000)]
)
def test_the_examples_are_fresh(name: str, rows: int, queries: int) -> None:
    text = render_job(world=1, rows=rows, queries=queries, name=name)
    assert (EXAMPLES / f"{name}.yaml").read_text() == text
    job = parse_job(yaml.safe_load(text))
    assert job.metadata.name == name
    for source, count in ((job.spec.data.train, rows), (job.spec.data.queries, queries)):
        assert source.uri.endswith(f"rows={count}") if count else source is None
