"""Fields that an older CRD does not declare are left out, and nothing else."""

import json
from typing import Any

import pytest
from promptintern.pod.unknown_fields import dropping_unknown_fields, parse_unknown_fields, remove_fields

ONE = (
    "failed to create typed patch object (team/job; promptintern.dev/v1alpha1, Kind=PromptInternJob): "
    ".status.training.progress.timeShares: field not declared in schema"
)
TWO = """failed to create typed patch object (team/job; promptintern.dev/v1alpha1, Kind=PromptInternJob): errors:
  .status.training.progress.other: field not declared in schema
  .status.training.stages[index=0].foo: field not declared in schema"""


class RefusedError(Exception):
    """An exception with the fields of the Kubernetes client's."""

    def __init__(self, message: str) -> None:
        super().__init__("(500)\nReason: Internal Server Error")
        self.body = json.dumps({"kind": "Status", "code": 500, "message": message})


def test_unknown_fields() -> None:
    assert parse_unknown_fields(ONE) == {("progress", "timeShares")}
    assert parse_unknown_fields(TWO) == {("progress", "other"), ("stages", "foo")}
    assert parse_unknown_fields("Internal error occurred: failed calling webhook") == set()


def test_without() -> None:
    training = {"term": 1, "stages": [{"index": 0, "foo": 1}, {"index": 1}], "progress": {"step": 1, "foo": 2}}
    assert remove_fields(training, {("stages", "foo"), ("progress", "nothing"), ("term", "foo")}) == {
        "term": 1,
        "stages": [{"index": 0}, {"index": 1}],
        "progress": {"step": 1, "foo": 2},
    }
    assert remove_fields(training, {("progress",)}).keys() == {"term", "stages"}


def test_fields_that_the_server_names_one_after_another() -> None:
    patches: list[dict[str, Any]] = []
    requests = 0

    def patch(training: dict[str, Any]) -> None:
        nonlocal requests
        requests += 1
        for name in ("b", "a"):
            if name in training:
                raise RefusedError(f".status.training.{name}: field not declared in schema")
        patches.append(training)

    tolerant = dropping_unknown_fields(patch)
    tolerant({"a": 1, "b": 2, "c": 3})
    tolerant({"a": 4, "b": 5, "c": 6})
    assert patches == [{"c": 3}, {"c": 6}]
    assert requests == 4, "fields stay dropped once the server has named them"


def test_other_failures_are_raised() -> None:
    def patch(training: dict[str, Any]) -> None:
        raise RefusedError("etcdserver: request timed out")

    with pytest.raises(RefusedError):
        dropping_unknown_fields(patch)({"a": 1})


def test_a_field_that_stays_unknown_without_being_there_is_a_failure() -> None:
    def patch(training: dict[str, Any]) -> None:
        raise RefusedError(".status.training.a: field not declared in schema")

    with pytest.raises(RefusedError):
        dropping_unknown_fields(patch)({"a": 1})
