"""The lines of a run in progress."""

import pytest
from promptintern.cli.console import _line
from promptintern.pipeline.events import Answered, Scored
from promptintern_api.metrics import Metric


@pytest.mark.parametrize("metric", list(Metric))
def test_a_score_is_shown_in_the_unit_of_its_metric(metric: Metric) -> None:
    line = _line(Scored(name="arm Base", metric=str(metric), score=0.4 if metric.is_share else 40.0))
    assert line == f"arm Base: {metric} {'40.0 %' if metric.is_share else '40.0'}"


def test_answers_are_counted() -> None:
    assert _line(Answered(name="times of FullPrompt", done=3, rows=52)) == "times of FullPrompt: answered 3/52"
