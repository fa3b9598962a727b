"""`logs` against a real API server and S3 server. There is no node, so no pod runs and no log is read in one."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from promptintern.cluster.client import connect

from tests.cli import Ran, promptintern
from tests.cluster.api_server import ApiServer
from tests.cluster.s3 import S3Server
from tests.integration.cluster_cli.conftest import Command
from tests.integration.cluster_cli.moves import NOW, attempt, condition, grant, rule, set_status
from tests.integration.cluster_cli.test_fetch import Place, place_for

DRIVER = "logs/small-a1/job-driver-small-a1-x.log"


@pytest.fixture
def place(
    installed: ApiServer, namespace: str, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A job, and a user who trusts its S3 server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    return place_for(installed, namespace, s3_server, s3_bucket, in_spec=True)


def head_pod(server: ApiServer, namespace: str, *, running: bool) -> None:
    """The head pod of attempt 1, as far as an API server without nodes can hold one."""
    labels = {"promptintern.dev/job": "small", "promptintern.dev/role": "head"}
    server.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "small-a1-head", "namespace": namespace, "labels": labels},
            "spec": {
                "containers": [
                    {
                        "name": "ray-head",
                        "image": "example/trainer",
                        "env": [{"name": "PROMPTINTERN_RAY_JOB", "value": "small-a1"}],
                    }
                ]
            },
        }
    )
    state = {"running": {"startedAt": NOW}} if running else {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}
    container = {"name": "ray-head", "image": "x", "imageID": "", "ready": running, "restartCount": 0, "state": state}
    status = {"status": {"phase": "Running" if running else "Pending", "containerStatuses": [container]}}
    patch = json.dumps(status)
    server.kubectl(
        "patch", "pod", "small-a1-head", "-n", namespace, "--subresource", "status", "--type", "merge", "-p", patch
    )


@pytest.mark.parametrize("follow", [False, True])
def test_the_client_library_accepts_the_request_for_a_log(
    installed: ApiServer, namespace: str, follow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod is on no node; the API server then returns an empty log."""
    monkeypatch.setenv("KUBECONFIG", str(installed.kubeconfig))
    head_pod(installed, namespace, running=True)
    cluster = connect(namespace=namespace)
    assert b"".join(cluster.pod_log("small-a1-head", "ray-head", follow=follow)) == b""


def ended(server: ApiServer, place: Place, **more: object) -> None:
    first = attempt(1, "small", finishedAt=NOW, outcome="Application", message="it broke")
    failed = condition("Failed", "True", "RetriesExhausted", "attempt 1: it broke")
    set_status(server, place.namespace, "small", phase="Failed", conditions=[failed], attempts=[first], **more)


def test_before_anything_has_run(command: Command, place: Place) -> None:
    ran = command("logs", "small")
    assert ran.code == 0, ran.err
    assert "none of its pods has run" in ran.err


def test_a_refused_job_says_why(command: Command, place: Place, installed: ApiServer) -> None:
    refused = condition("Accepted", "False", "Refused", "spec.data.train: is empty")
    set_status(installed, place.namespace, "small", phase="Refused", conditions=[refused])
    for arguments in (["logs", "small"], ["logs", "small", "-f"]):
        ran = command(*arguments)
        assert ran.code == 0, ran.err
        assert "spec.data.train: is empty" in ran.err


@pytest.mark.parametrize("flags", [[], ["-f"], ["--attempt", "1"]])
def test_after_the_end_the_stored_log(command: Command, place: Place, installed: ApiServer, flags: list[str]) -> None:
    place.store.write(DRIVER, b"line 1\nline 2\n")
    place.store.write("logs/small-a1/gcs_server.out", b"not asked for\n")
    ended(installed, place)
    ran = command("logs", "small", *flags)
    assert ran.code == 0, ran.err
    assert ran.out == "line 1\nline 2\n"
    assert "attempt 1 ended (Application): it broke" in ran.err


def test_an_attempt_that_does_not_exist(command: Command, place: Place, installed: ApiServer) -> None:
    ended(installed, place)
    ran = command("logs", "small", "--attempt", "3")
    assert ran.code == 2
    assert "has no attempt 3; its attempts: 1" in ran.err


def test_nothing_was_stored(command: Command, place: Place, installed: ApiServer) -> None:
    ended(installed, place)
    ran = command("logs", "small")
    assert ran.code == 0, ran.err
    assert "no log of attempt 1 was stored" in ran.err


def test_a_pod_that_does_not_run_yet(command: Command, place: Place, installed: ApiServer) -> None:
    head_pod(installed, place.namespace, running=False)
    set_status(installed, place.namespace, "small", phase="Starting", attempts=[attempt(1, "small")])
    ran = command("logs", "small")
    assert ran.code == 0, ran.err
    assert "pod small-a1-head is not running yet: ImagePullBackOff: no" in ran.err


READ = [rule("promptintern.dev", ["promptinternjobs"], "get")]
PODS = [rule("", ["pods"], "get", "list")]
Run = Callable[[list[dict[str, object]]], Ran]


@pytest.fixture
def as_user(
    installed: ApiServer,
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Run:
    """``promptintern logs small`` as a user with these rules."""

    def run(rules: list[dict[str, object]]) -> Ran:
        user = f"user-of-{place.namespace}"
        grant(installed, place.namespace, user, *rules)
        monkeypatch.setenv("KUBECONFIG", str(installed.kubeconfig_for(user, file=tmp_path / "user")))
        return promptintern("logs", "small", "-n", place.namespace, capsys=capsys, monkeypatch=monkeypatch)

    return run


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([*READ, *PODS], "may not (get|create) pods/exec"),
        (READ, "may not list pods"),
    ],
)
def test_without_rights_the_stored_log(
    as_user: Run, place: Place, installed: ApiServer, rules: list[dict[str, object]], says: str
) -> None:
    head_pod(installed, place.namespace, running=True)
    place.store.write(DRIVER, b"from storage\n")
    set_status(installed, place.namespace, "small", phase="Training", attempts=[attempt(1, "small")])
    ran = as_user(rules)
    assert ran.code == 0, ran.err
    assert ran.out == "from storage\n"
    assert re.search(says, ran.err)


def test_a_stored_log_whose_server_only_pods_know(
    command: Command, place: Place, installed: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTINTERN_STORAGE_DEADLINE_SECONDS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.nowhere:7070")
    ended(installed, place)
    ran = command("logs", "small")
    assert ran.code == 1
    assert "give --endpoint http://127.0.0.1:PORT" in ran.err
