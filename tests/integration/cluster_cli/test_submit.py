"""Submitting to a real API server: created, changed, refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import promptintern
from tests.cluster.api_server import ApiServer
from tests.integration.cluster_cli.conftest import Command
from tests.integration.cluster_cli.moves import NOW, condition, set_status

JobFile = Callable[..., Path]


def test_creates_what_the_file_says(command: Command, job_file: JobFile, installed: ApiServer, namespace: str) -> None:
    labels = {"kueue.x-k8s.io/queue-name": "team-a"}
    path = job_file({"metadata.labels": labels, "metadata.annotations": {"team": "a"}, "spec.training.seed": 3})
    ran = command("submit", path)
    assert ran.code == 0, ran.err
    assert f"{namespace}/small: created" in ran.out
    assert f"promptintern status small --watch -n {namespace}" in ran.out
    stored = installed.get("pij", "small", namespace)
    assert stored is not None
    assert stored["metadata"]["labels"] == labels
    assert stored["metadata"]["annotations"] == {"team": "a"}
    assert stored["spec"]["training"]["seed"] == 3


def test_overrides_count(command: Command, job_file: JobFile, installed: ApiServer, namespace: str) -> None:
    ran = command("submit", job_file(), "--set", "training.seed=7", "--set", "metadata.name=other")
    assert ran.code == 0, ran.err
    stored = installed.get("pij", "other", namespace)
    assert stored is not None
    assert stored["spec"]["training"]["seed"] == 7


def test_a_dry_run_keeps_nothing(command: Command, job_file: JobFile, installed: ApiServer, namespace: str) -> None:
    ran = command("submit", job_file(), "--dry-run")
    assert ran.code == 0, ran.err
    assert "dry run" in ran.out
    assert installed.get("pij", "small", namespace) is None


def test_the_same_job_again_changes_nothing(command: Command, job_file: JobFile) -> None:
    command("submit", job_file())
    ran = command("submit", job_file())
    assert ran.code == 0, ran.err
    assert "already exists and does not differ from the file (new); nothing was changed" in ran.out


def test_mutable_fields_change_and_others_are_refused(
    command: Command, job_file: JobFile, installed: ApiServer, namespace: str
) -> None:
    command("submit", job_file({"spec.activeDeadlineSeconds": 100}))
    set_status(installed, namespace, "small", phase="Training", startTime=NOW)

    ran = command(
        "submit", job_file({"spec.suspend": True, "spec.retries.application": 5, "metadata.labels": {"a.b/c": "d"}})
    )
    assert ran.code == 0, ran.err
    assert "spec.suspend: false in the cluster, true in the file" in ran.out
    stored = installed.get("pij", "small", namespace)
    assert stored is not None
    assert stored["spec"]["suspend"] is True
    assert stored["spec"]["retries"]["application"] == 5
    assert stored["spec"]["activeDeadlineSeconds"] == 100  # the file leaves it out
    assert stored["metadata"]["labels"] == {"a.b/c": "d"}

    ran = command("submit", job_file({"spec.training.seed": 1, "spec.suspend": False}))
    assert ran.code == 2
    assert "already exists" in ran.err
    assert "spec.training.seed: 0 in the cluster, 1 in the file" in ran.err
    assert "metadata.name=small-2" in ran.err
    stored = installed.get("pij", "small", namespace)
    assert stored is not None
    assert stored["spec"]["suspend"] is True  # all or nothing


def test_a_refused_job_is_replaced_by_submitting_it_again(
    command: Command, job_file: JobFile, installed: ApiServer, namespace: str
) -> None:
    command("submit", job_file({"spec.training.seed": 1, "spec.training.learningRate": 0.5}))
    refused = condition("Accepted", "False", "Refused", "spec.data.train: is empty")
    set_status(installed, namespace, "small", phase="Refused", conditions=[refused])
    ran = command("submit", job_file({"spec.training.seed": 2}))
    assert ran.code == 0, ran.err
    assert "was not accepted yet" in ran.out
    assert "spec.training.learningRate: 0.5 in the cluster" in ran.out
    stored = installed.get("pij", "small", namespace)
    assert stored is not None
    assert stored["spec"]["training"]["seed"] == 2
    assert stored["spec"]["training"]["learningRate"] == 0.0002
    assert stored["status"]["phase"] == "Refused"


def test_files_of_this_machine_are_refused(command: Command, job_file: JobFile) -> None:
    ran = command("submit", job_file({"spec.data.train.uri": "train.jsonl"}))
    assert ran.code == 2
    assert "spec.data.train.uri" in ran.err
    assert "upload it to S3" in ran.err


def test_an_older_crd_names_the_field(
    installed: ApiServer, command: Command, job_file: JobFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CLI is newer than the cluster: requests use strict field validation."""
    from promptintern.cluster import submit

    read = submit.read_submission

    def with_new_field(path: Path, overrides: list[str]) -> submit.Submission:
        submission = read(path, overrides)
        document = {**submission.document, "spec": {**submission.document["spec"], "novelty": 1}}
        return submit.Submission(job=submission.job, document=document, namespace=submission.namespace)

    monkeypatch.setattr(submit, "read_submission", with_new_field)
    ran = command("submit", job_file())
    assert ran.code == 2
    assert "spec.novelty: is unknown to this cluster's version" in ran.err


def test_two_namespaces_are_refused(command: Command, job_file: JobFile) -> None:
    ran = command("submit", job_file({"metadata.namespace": "elsewhere"}))
    assert ran.code == 2
    assert "metadata.namespace: is elsewhere" in ran.err


def test_a_namespace_that_is_not_there(
    installed: ApiServer, job_file: JobFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(installed.kubeconfig))
    ran = promptintern("submit", job_file(), "-n", "nowhere", capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == 2
    assert "namespace nowhere: does not exist" in ran.err
