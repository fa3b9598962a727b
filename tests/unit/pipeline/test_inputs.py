"""The warnings about a job that loading its data gives."""

import pytest
from promptintern.pipeline.inputs import load_data
from promptintern.sample.job import build_job
from promptintern_api import parse_job


@pytest.mark.parametrize(
    ("examples", "warned"), [("", False), ("Question: total of claims\n=SUM\n\nQuestion: sum of days\n=SUM\n\n", True)]
)
def test_a_protected_text_that_is_kept_at_several_places_gives_a_warning(examples: str, warned: bool) -> None:
    job = build_job(world=4, rows=4)
    prompt = job["spec"]["prompt"]
    prompt["template"] = examples + prompt["template"]
    warnings = load_data(parse_job(job)).warnings
    expected = "spec.prompt.protect[0] ('\\n=') occurs 3 times in the template and is kept at each of them"
    assert any(expected in warning for warning in warnings) == warned
    assert any("protect" in warning for warning in warnings) == warned
