"""The sample jobs under examples/ are the output of the script."""

from pathlib import Path

import pytest
import yaml
from promptintern.sample.job import render_job
from promptintern_api import parse_job

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize(("name", "rows"), [("quickstart", 128), ("few-rows", 16)])
def test_the_examples_are_fresh(name: str, rows: int) -> None:
    text = render_job(world=1, rows=rows, name=name)
    assert (EXAMPLES / f"{name}.yaml").read_text() == text
    job = parse_job(yaml.safe_load(text))
    assert job.metadata.name == name
    assert job.spec.data.train.uri.endswith(f"rows={rows}")
