"""`kubectl apply` on a real API server, which validates the documents of the unit tests by the CRD itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from promptintern.job import load_job
from promptintern_api import InvalidJob, parse_job
from promptintern_api.job import MUTABLE_SPEC_FIELDS, PromptInternJobSpec

from tests.cluster.api_server import ApiServer
from tests.integration.api.conftest import Judge
from tests.unit.api import test_admission as in_python
from tests.unit.api.documents import (
    BAD_JOBS,
    GOOD_CHANGES,
    LARGE_BAD_JOBS,
    LARGE_GOOD_CHANGES,
    REMOVED,
    BadJob,
    small_job,
    with_changes,
)

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


def apply(server: ApiServer, namespace: str, document: dict[str, Any], *flags: str) -> str:
    """Apply ``document`` and return the output of kubectl, whether it succeeds or not."""
    return server.kubectl("apply", *flags, "--namespace", namespace, "-f", "-", input=json.dumps(document), check=False)


def is_refused(output: str, field: str) -> bool:
    """Whether the server refused the job and named the field."""
    refused = "is invalid" in output or "unknown field" in output or "failed to create typed patch object" in output
    return refused and field in output and "created" not in output


def named(document: dict[str, Any], name: str) -> dict[str, Any]:
    return with_changes(document, {"metadata.name": name})


# Creating


def test_there_are_enough_bad_jobs() -> None:
    assert len({json.dumps(bad.document, sort_keys=True) for bad in BAD_JOBS if bad.changes != NULL}) >= 60


NULL = {"spec.shedule": None}


@pytest.mark.parametrize("bad", [bad for bad in BAD_JOBS if bad.changes != NULL], ids=lambda bad: bad.label)
def test_a_bad_job_is_refused_at_its_field(server: ApiServer, namespace: str, bad: BadJob) -> None:
    output = apply(server, namespace, bad.document)
    assert is_refused(output, bad.field), output


def test_bad_jobs_are_refused_by_server_side_apply_too(apply_judge: Judge) -> None:
    """The same documents are refused as `kubectl apply --server-side` sends them."""
    answers = [(bad, *apply_judge(bad.document)) for bad in (*BAD_JOBS, *LARGE_BAD_JOBS)]
    accepted = [
        (bad.label, code, output) for bad, code, output, _ in answers if code < 400 or not is_refused(output, bad.field)
    ]
    assert accepted == []
    code, output, _ = apply_judge(small_job())
    assert code == 201, output


def test_an_unknown_field_that_is_null_never_reaches_the_server(server: ApiServer, namespace: str) -> None:
    """`kubectl apply` removes nulls from a new object, so it sends a valid one. Other clients are refused."""
    document = with_changes(small_job(), NULL)
    assert "created" in apply(server, namespace, document, "--dry-run=server")
    output = server.kubectl("create", "--namespace", namespace, "-f", "-", input=json.dumps(document), check=False)
    assert is_refused(output, "spec.shedule"), output


@pytest.mark.parametrize("number", range(len(GOOD_CHANGES)))
def test_a_good_job_is_stored_as_the_same_job(server: ApiServer, namespace: str, number: int) -> None:
    document = named(with_changes(small_job(), GOOD_CHANGES[number]), f"good-{number}")
    output = apply(server, namespace, document)
    assert "created" in output, output
    stored = server.get("pij", f"good-{number}", namespace)
    assert stored is not None
    assert parse_job(stored).spec == parse_job(document).spec


@pytest.mark.parametrize("number", range(len(LARGE_GOOD_CHANGES)))
def test_a_job_of_the_largest_size_is_accepted(apply_judge: Judge, number: int) -> None:
    document = with_changes(small_job(), LARGE_GOOD_CHANGES[number])
    code, output, stored = apply_judge(document)
    assert code == 201, output
    assert parse_job(stored).spec == parse_job(document).spec


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted(server: ApiServer, namespace: str, path: Path) -> None:
    output = server.kubectl("apply", "--namespace", namespace, "-f", str(path), check=False)
    written = yaml.safe_load(path.read_text())["spec"]["data"]
    if all("://" in source["uri"] for source in written.values()):
        assert "created" in output, output
    else:  # a path on this machine, which pods do not see; `promptintern run` turns it into a file:// URI
        assert is_refused(output, "spec.data.train.uri"), output
        output = apply(server, namespace, with_changes(load_job(path).to_wire(), {"metadata.namespace": namespace}))
        assert "created" in output, output


# The server compared with the models


@given(in_python._SPECS, st.none() | st.tuples(st.integers(0, 999), in_python._WRONG))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example({}, None)
def test_the_server_and_the_models_accept_the_same_jobs(
    judge: Judge, spec: dict[str, Any], mutation: tuple[int, Any] | None
) -> None:
    document = small_job()
    document["spec"] |= spec
    if mutation:
        number, wrong = mutation
        paths = in_python._paths(document["spec"], ())
        in_python._replace(document["spec"], paths[number % len(paths)], wrong)
    code, output, _ = judge(document)
    assert (code == 201) == in_python.accepts(document), output


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        ({"spec.schedule.stages": 2.0}, {"spec.schedule.stages": 2}),
        ({"spec.compute.nodeSelector": {"zone": "a", "gpu": None}}, {"spec.compute.nodeSelector": {"zone": "a"}}),
    ],
)
def test_the_server_fixes_what_the_models_refuse(judge: Judge, changes: dict[str, Any], stored: dict[str, Any]) -> None:
    """The server is laxer here, but the operator reads what the server stored, which is valid."""
    document = with_changes(small_job(), changes)
    with pytest.raises(InvalidJob):
        parse_job(document)
    code, output, body = judge(document)
    assert code == 201, output
    assert parse_job(body).spec == parse_job(with_changes(small_job(), stored)).spec


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"spec.training.learningRate": "2e-4"}, "spec.training.learningRate"),
        (
            {"spec.compute.tolerations": [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2**63}]},
            "spec.compute.tolerations[0].tolerationSeconds",
        ),
    ],
)
def test_the_server_refuses_what_the_models_accept(judge: Judge, changes: dict[str, Any], where: str) -> None:
    """The models accept a numeral as text, because PyYAML reads 2e-4 so, and a number that needs more than 64 bits."""
    document = with_changes(small_job(), changes)
    parse_job(document)
    code, output, _ = judge(document)
    assert code == 422 and where in output, output


# Changing

FIXED = {
    "model": {"spec.model.dtype": "float32"},
    "data": {"spec.data.train.limit": 5},
    "prompt": {"spec.prompt.protect": ["formula"]},
    "schedule": {"spec.schedule": {"shots": 1}},
    "training": {"spec.training": {"seed": 1}},
    "evaluation": {"spec.evaluation": {"stageRows": 5}},
    "compute": {"spec.compute": {"workers": 2}},
    "checkpoint": {"spec.checkpoint": {"keep": 3}},
    "storage": {"spec.storage": {"uri": "s3://bucket/elsewhere"}},
}
"""A change of every field that is fixed once the job has been accepted."""
FREE: dict[str, dict[str, Any]] = {
    "suspend": {"spec.suspend": True},
    "retries": {"spec.retries": {"application": 3}},
    "activeDeadlineSeconds": {"spec.activeDeadlineSeconds": 60},
    "ttlSecondsAfterFinished": {"spec.ttlSecondsAfterFinished": 60},
}


@pytest.fixture(scope="module")
def jobs(server: ApiServer, namespace: str) -> dict[str, dict[str, Any]]:
    """The documents of two jobs, `open` and `accepted`. The status of the latter is that of an accepted job."""
    documents = {
        name: named(with_changes(small_job(), {"spec.storage": {"uri": "s3://bucket/runs"}}), name)
        for name in ("open", "accepted")
    }
    for document in documents.values():
        assert "created" in apply(server, namespace, document)
    for name, status in (("open", {"phase": "Refused"}), ("accepted", {"startTime": "2026-01-01T00:00:00Z"})):
        patch = ["--subresource=status", "--type=merge", "-p", json.dumps({"status": status})]
        server.kubectl("patch", "pij", name, "--namespace", namespace, *patch)
    return documents


def test_every_field_of_the_spec_is_fixed_or_free() -> None:
    fields = {field.alias for field in PromptInternJobSpec.model_fields.values()}
    assert set(FIXED) | set(FREE) == fields
    assert set(FREE) == set(MUTABLE_SPEC_FIELDS)


@pytest.mark.parametrize("field", FIXED)
def test_an_accepted_job_cannot_change_what_it_computes(
    server: ApiServer, namespace: str, jobs: dict[str, dict[str, Any]], field: str
) -> None:
    output = apply(server, namespace, with_changes(jobs["accepted"], FIXED[field]), "--dry-run=server")
    assert f"spec.{field}: Invalid value" in output and "cannot change once the job has been accepted" in output
    assert output.count("cannot change once") == 1, output
    output = apply(server, namespace, with_changes(jobs["open"], FIXED[field]), "--dry-run=server")
    assert "configured" in output, output


def test_an_accepted_job_keeps_its_storage(server: ApiServer, namespace: str, jobs: dict[str, dict[str, Any]]) -> None:
    """Leaving out a field is a change as well."""
    output = apply(server, namespace, with_changes(jobs["accepted"], {"spec.storage": REMOVED}), "--dry-run=server")
    assert is_refused(output, "spec.storage"), output


def test_all_changed_fields_are_named(server: ApiServer, namespace: str, jobs: dict[str, dict[str, Any]]) -> None:
    changes = {path: value for change in FIXED.values() for path, value in change.items()}
    output = apply(server, namespace, with_changes(jobs["accepted"], changes), "--dry-run=server")
    assert all(is_refused(output, f"spec.{field}") for field in FIXED), output


@pytest.mark.parametrize("change", [*FREE, "metadata.labels"])
def test_an_accepted_job_may_be_suspended_retried_and_timed(
    server: ApiServer, namespace: str, jobs: dict[str, dict[str, Any]], change: str
) -> None:
    changes = FREE.get(change, {"metadata.labels": {"team": "a"}})
    output = apply(server, namespace, with_changes(jobs["accepted"], changes), "--dry-run=server")
    assert "configured" in output, output


def test_writing_out_a_default_is_not_a_change(
    server: ApiServer, namespace: str, jobs: dict[str, dict[str, Any]]
) -> None:
    changes = {"spec.training": {"seed": 0, "lora": {"r": 32}}, "spec.prompt.compressor": {"kind": "SelfInformation"}}
    output = apply(server, namespace, with_changes(jobs["accepted"], changes), "--dry-run=server")
    assert "configured" in output or "unchanged" in output, output


def test_a_status_from_the_author_is_dropped(server: ApiServer, namespace: str) -> None:
    """An author cannot create a job as accepted, which would fix its spec before the operator checked it."""
    document = named(with_changes(small_job(), {"status": {"startTime": "2026-01-01T00:00:00Z"}}), "forged")
    assert "created" in apply(server, namespace, document)
    stored = server.get("pij", "forged", namespace)
    assert stored is not None and "status" not in stored
