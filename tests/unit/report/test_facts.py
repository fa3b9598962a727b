"""Facts: the round trip through JSON, and the refusal of facts that contradict each other."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.report.facts import RunFacts, facts_from_json, facts_to_json
from pydantic import ValidationError

from tests.unit.report.figures import facts, stage

RUN = facts(rows=12)


@pytest.mark.parametrize(
    "run",
    [
        RUN,
        facts(rows=12, prices=False, direct=None, base=None),
        facts(rows=12, stopped_at=1, kept=0, stages=[stage(0), stage(1, gate="failed")]),
        facts(rows=12, stopped_at=0, kept=None, result=None, stages=[stage(0, gate="failed")]),
    ],
)
def test_facts_come_back_from_json(run: RunFacts) -> None:
    assert facts_from_json(facts_to_json(run)) == run


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=12, max_size=12))
@settings(max_examples=30)
def test_any_text_comes_back_from_json(texts: list[str]) -> None:
    run = RUN.model_copy(update={"arms": [RUN.arms[0].model_copy(update={"predictions": texts}), *RUN.arms[1:]]})
    assert facts_from_json(facts_to_json(run)).arms[0].predictions == texts


def test_json_is_camel_case() -> None:
    document = json.loads(facts_to_json(facts(rows=12)))
    assert {"maxNewTokens", "plannedStages", "gate", "arms"} <= document.keys()
    assert {"promptTokens", "answerTokens", "predictions", "name"} <= document["arms"][0].keys()


def _change(document: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    place: Any = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["arms", 0, "predictions"], ["one"], "1 predictions for 12 held-out rows"),
        (["arms", 1, "promptTokens"], [1] * 13, "13 prompt_tokens for 12 held-out rows"),
        (["arms", 1, "name"], "FullPrompt", "two arms have the same name"),
        (["arms", 0, "name"], "Other", "no arm FullPrompt"),
        (["arms", 1, "name"], "Other", "no arm QueryOnly"),
        (["rows", 3, "accepted"], [], "rows.3.accepted"),
        (["loss", 0, "loss"], "nan", "loss.0.loss"),
        (["stages", 0, "gate"], "none", "stages.0.gate"),
        (["colour"], "red", "colour"),
    ],
)
def test_inconsistent_facts_are_refused(path: list[Any], value: Any, message: str) -> None:
    document = _change(json.loads(facts_to_json(facts(rows=12))), path, value)
    with pytest.raises(ValidationError) as refusal:
        facts_from_json(json.dumps(document))
    assert message in str(refusal.value)
