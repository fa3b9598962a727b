"""The API server and `promptintern run` accept the same jobs, because the CRD and the models have the same rules."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern_api import InvalidJob, parse_job
from promptintern_api.schema import Schema

from tests.unit.api.admission import SCHEMA, refusals, with_defaults
from tests.unit.api.documents import (
    BAD_JOBS,
    GOOD_CHANGES,
    LARGE_BAD_JOBS,
    LARGE_GOOD_CHANGES,
    BadJob,
    small_job,
    with_changes,
)


def accepts(document: dict[str, Any]) -> bool:
    try:
        parse_job(document)
    except InvalidJob:
        return False
    return True


@pytest.mark.parametrize("bad", (*BAD_JOBS, *LARGE_BAD_JOBS), ids=lambda bad: bad.label)
def test_the_server_refuses_a_bad_job_at_the_same_field(bad: BadJob) -> None:
    refused = refusals(bad.document)
    if bad.field.startswith("metadata."):
        assert [message.partition(":")[0] for _, message in refused] == [bad.field]
    else:
        assert bad.field in {field for field, _ in refused}


@pytest.mark.parametrize(
    "changes", (*GOOD_CHANGES, *LARGE_GOOD_CHANGES), ids=lambda changes: "-".join(changes) or "small"
)
def test_the_server_accepts_a_good_job_and_its_defaults_change_nothing(changes: dict[str, Any]) -> None:
    document = with_changes(small_job(), changes)
    assert refusals(document) == []
    assert parse_job(with_defaults(document, SCHEMA)) == parse_job(document)


_WRONG = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([10**9, 10**18, 0.5, -0.5, 1.5, True, False, "", "x", "Linear", "a b", "s3://", "file://x\n"]),
    st.builds(list),
    st.builds(dict),
    st.fixed_dictionaries({"unknown": st.just(1)}),
    st.lists(st.sampled_from(["x", "QueryOnly", "FullPrompt", "BLEU"]), max_size=5),
)
"""Values for any field, valid or not."""

_TEXTS = {
    "template": ["{examples}{query}", "{examples}{query}", "{query}", "{examples} in {query} {out}", "{query}{query}"],
    "exampleTemplate": ["{query}{answer}", "{answer}{query}{query}", "{query}"],
    "protect": [" in ", "{out}", "{query}"],
    "uri": ["s3://bucket/key", "file:///path"],
    "modelUri": ["hf://acme/model"],
    "endpoint": ["http://127.0.0.1:1"],
    "rayVersion": ["2.60.0"],
    "gpuResource": ["amd.com/gpu"],
    "operator": ["Exists"],
    "effect": ["NoSchedule"],
}


_VARIABLES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["HTTP_PROXY", "no_proxy", "NCCL_DEBUG", "NCCL_CONF_FILE"]),
        "value": st.text(max_size=3),
    }
)


def _values(node: Schema, field: str) -> st.SearchStrategy[Any]:
    """Values that the schema accepts. They may break rules across fields."""
    match node:
        case {"enum": words}:
            return st.sampled_from(words)
        case {"properties": fields}:
            required = {name: _values(fields[name], name) for name in node.get("required", [])}
            if field == "spec":
                required = {}  # small_job has them, and drawn ones replace them
            optional = {name: _values(child, name) for name, child in fields.items() if name not in required}
            return st.fixed_dictionaries(required, optional=optional)
        case {"items": items}:
            return st.lists(_VARIABLES if field == "env" else _values(items, field), max_size=4)
        case {"additionalProperties": _}:
            keys = st.sampled_from(["a", "b", "example.org/c", "ray.io/d", "-", "app.kubernetes.io/e"])
            values = st.sampled_from(["", "x", "1"]) if field == "podLabels" else st.text(max_size=3)
            return st.dictionaries(keys, values, max_size=2)
        case {"type": "integer"}:
            return st.integers(node.get("minimum", 0), min(node.get("maximum", 99), 99))
        case {"type": "boolean"}:
            choices: list[Any] = [True, False]
        case {"type": "number"}:
            choices = [n for n in (0, 0.25, 0.5, 1) if n or "exclusiveMinimum" not in node]
            choices = [n for n in choices if n < 1 or "exclusiveMaximum" not in node]
        case _:
            choices = _TEXTS.get(field, ["4"])
    return st.sampled_from(choices)


def _paths(value: Any, path: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [child_path for key, child in children for child_path in _paths(child, (*path, key))]
    return [path, *below] if path else below


def _replace(value: Any, path: tuple[str | int, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


_SPECS = _values(SCHEMA["properties"]["spec"], "spec")


@given(_SPECS, st.none() | st.tuples(st.integers(0, 999), _WRONG))
@settings(max_examples=60)
def test_both_accept_the_same_jobs(spec: dict[str, Any], mutation: tuple[int, Any] | None) -> None:
    document = small_job()
    document["spec"] |= spec
    if mutation:
        number, wrong = mutation
        paths = _paths(document["spec"], ())
        _replace(document["spec"], paths[number % len(paths)], wrong)
    refused = refusals(document)
    assert accepts(document) == (not refused), refused


@given(
    st.lists(st.sampled_from(["{query}", "{examples}", "{answer}", "{", "}", "query", "{{", "}}", "é\n"]), max_size=6)
)
@settings(max_examples=30)
def test_both_see_the_same_placeholders(pieces: list[str]) -> None:
    template = "".join(pieces)  # adjacent pieces may form a placeholder
    document = with_changes(small_job(), {"spec.prompt.template": template})
    refused = refusals(document)
    assert accepts(document) == (not refused), refused
    assert accepts(document) == (
        template.count("{query}") == template.count("{examples}") == 1 and "{answer}" not in template
    )


ACCEPTED = {"status": {"startTime": "2026-01-01T00:00:00Z"}}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"spec.model.dtype": "float32"}, "spec.model"),
        ({"spec.training": {"seed": 1}}, "spec.training"),
        ({"spec.schedule": {"shots": 1}}, "spec.schedule"),
        ({"spec.storage": {"uri": "s3://bucket/runs"}}, "spec.storage"),
        ({"spec.data.train.limit": 5}, "spec.data"),
    ],
)
def test_an_accepted_job_cannot_change_what_it_computes(changes: dict[str, Any], field: str) -> None:
    accepted = with_changes(small_job(), ACCEPTED)
    assert [name for name, _ in refusals(with_changes(accepted, changes), accepted)] == [field]


def test_a_job_that_was_not_accepted_can_be_corrected() -> None:
    changes = {"spec.model.dtype": "float32", "spec.data.train.limit": 5}
    refused = with_changes(small_job(), {"status": {"phase": "Refused"}})
    assert refusals(with_changes(small_job(), changes), small_job()) == []
    assert refusals(with_changes(refused, changes), refused) == []


def test_an_accepted_job_may_be_suspended_retried_and_timed() -> None:
    accepted = with_changes(small_job(), ACCEPTED)
    changes = {
        "spec.suspend": True,
        "spec.retries": {"application": 3},
        "spec.activeDeadlineSeconds": 60,
        "spec.ttlSecondsAfterFinished": 60,
    }
    assert refusals(with_changes(accepted, changes), accepted) == []
    assert refusals(accepted, with_changes(accepted, changes)) == []


def test_writing_out_a_default_is_not_a_change() -> None:
    changes = {"spec.training": {"seed": 0}, "spec.prompt.compressor": {"kind": "SelfInformation"}}
    accepted = with_changes(small_job(), ACCEPTED)
    assert refusals(with_changes(accepted, changes), accepted) == []
