"""Parsing a job names the field of each mistake, and a valid job survives the wire format."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from promptintern_api import InvalidJob, parse_job
from promptintern_api.errors import MAX_BYTES

from tests.unit.api.documents import (
    BAD_JOBS,
    GOOD_CHANGES,
    LARGE_BAD_JOBS,
    LARGE_GOOD_CHANGES,
    BadJob,
    small_job,
    with_changes,
)


@pytest.mark.parametrize("bad", (*BAD_JOBS, *LARGE_BAD_JOBS), ids=lambda bad: bad.label)
def test_a_bad_job_is_refused_at_its_field(bad: BadJob) -> None:
    with pytest.raises(InvalidJob) as caught:
        parse_job(bad.document)
    problems = [problem for problem in caught.value.problems if problem.where == bad.field]
    assert any(bad.message in problem.message for problem in problems), str(caught.value)


@pytest.mark.parametrize(
    "changes", (*GOOD_CHANGES, *LARGE_GOOD_CHANGES), ids=lambda changes: "-".join(changes) or "small"
)
def test_a_job_survives_the_wire(changes: dict[str, Any]) -> None:
    job = parse_job(with_changes(small_job(), changes))
    assert parse_job(job.to_wire()) == job


def test_all_problems_are_reported_at_once() -> None:
    changes = {"metadata.name": "X", "spec.model.uri": "x", "spec.schedule.stages": 0, "spec.tranining": {}}
    with pytest.raises(InvalidJob) as caught:
        parse_job(with_changes(small_job(), changes))
    wheres = {problem.where for problem in caught.value.problems}
    assert wheres == {"metadata.name", "spec.model.uri", "spec.schedule.stages", "spec.tranining"}


def test_a_numeral_as_text_is_a_number_because_pyyaml_reads_2e_4_as_text() -> None:
    job = parse_job(with_changes(small_job(), {"spec.training.learningRate": "2e-4"}))
    assert job.spec.training.learning_rate == 2e-4


def test_metadata_that_kubernetes_adds_is_accepted() -> None:
    added = {
        "metadata.uid": "3b2c0d9e-0000",
        "metadata.creationTimestamp": datetime(2026, 1, 2, tzinfo=UTC),
        "metadata.managedFields": [{"manager": "kubectl", "time": date(2026, 1, 2)}],
    }
    assert parse_job(with_changes(small_job(), added)).metadata.uid == "3b2c0d9e-0000"


@pytest.mark.parametrize("document", [None, [], "job", 3])
def test_a_document_that_is_not_a_mapping_is_refused(document: object) -> None:
    with pytest.raises(InvalidJob, match="is not a mapping"):
        parse_job(document)


def test_a_document_of_another_kind_is_refused_at_kind() -> None:
    with pytest.raises(InvalidJob, match="kind: should be 'PromptInternJob', got 'RayJob'"):
        parse_job(small_job() | {"kind": "RayJob"})


def test_aliases_that_expand_without_end_are_refused_by_size() -> None:
    layer: list[Any] = ["ha"] * 10
    for _ in range(12):
        layer = [layer] * 10  # 10^13 words if it were written out
    with pytest.raises(InvalidJob, match=f"is larger than {MAX_BYTES:,} bytes"):
        parse_job(with_changes(small_job(), {"metadata.annotations": layer}))


def test_a_document_that_contains_itself_is_refused() -> None:
    document = small_job()
    document["metadata"]["self"] = document
    with pytest.raises(InvalidJob, match="contains itself"):
        parse_job(document)


def test_bytes_are_refused_instead_of_being_read_as_text() -> None:
    with pytest.raises(InvalidJob, match="a value of type bytes"):
        parse_job(with_changes(small_job(), {"spec.prompt.template": b"{query}"}))
