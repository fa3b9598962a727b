"""Status and --watch against a real API server; the test plays the operator."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.client import wait_for
from tests.cluster.errors import NoCluster
from tests.integration.cluster_cli.conftest import CRD, Command
from tests.integration.cluster_cli.moves import NOW, attempt, condition, set_status, stage
from tests.unit.api.documents import small_job

TRAINING = [condition("Accepted", "True", "Valid", "fine"), condition("Training", "True", "Running", "attempt 1 runs")]
REFUSED = [condition("Accepted", "False", "Refused", "spec.data.train: is empty\nspec.model: is gated")]


def test_a_list(command: Command, installed: ApiServer, namespace: str) -> None:
    ran = command("status")
    assert (ran.code, "no jobs in namespace" in ran.out) == (0, True)
    installed.apply(small_job(), namespace)
    set_status(installed, namespace, "small", phase="Training", stage="2/4", tokens=42.5, score="0.910")
    ran = command("status")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1].split()[:5] == ["small", "Training", "2/4", "42.5", "0.910"]


def test_one_job(command: Command, installed: ApiServer, namespace: str) -> None:
    installed.apply(small_job(), namespace)
    assert "the operator has not observed the newest spec yet" in command("status", "small").out
    set_status(
        installed,
        namespace,
        "small",
        phase="Training",
        observedGeneration=1,
        conditions=TRAINING,
        attempts=[attempt(1, "small")],
        startTime=NOW,
        stage="2/4",
        training={
            "term": 1,
            "stages": [stage(0, finishedAt=NOW, loss=0.5, score=0.75), stage(1, loss=0.25)],
            "progress": {"step": 30, "total": 120, "tokensPerSecond": 12345.6},
        },
    )
    ran = command("status", "small")
    assert ran.code == 0, ran.err
    assert "Training · stage 2/4" in ran.out
    assert "stage 2: step 30/120 (25 %), loss 0.2500, 12,346 tokens/s" in ran.out
    assert "0.750" in ran.out
    assert "fine" not in ran.out


def watching(kubeconfig: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "promptintern.cli.app", *arguments],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("end", "code", "says"),
    [
        ({"phase": "Succeeded", "conditions": [condition("Succeeded", "True", "Succeeded", "done")]}, 0, "fetch small"),
        ({"phase": "Failed", "conditions": [condition("Failed", "True", "RetriesExhausted", "boom")]}, 1, "boom"),
        ({"phase": "Refused", "conditions": REFUSED}, 2, "spec.model: is gated"),
        (
            {"phase": "Failed", "conditions": [condition("Failed", "True", "Refused", "spec.compute: bad")]},
            2,
            "spec.compute: bad",
        ),
    ],
)
def test_submit_and_wait(
    installed: ApiServer,
    namespace: str,
    job_file: Callable[..., Path],
    end: dict[str, object],
    code: int,
    says: str,
) -> None:
    process = watching(installed.kubeconfig, "submit", str(job_file()), "-n", namespace, "--wait")
    try:
        wait_for(lambda: installed.get("pij", "small", namespace), what="the job")
        set_status(
            installed,
            namespace,
            "small",
            phase="Checking",
            conditions=[condition("Accepted", "Unknown", "Checking", "c")],
        )
        time.sleep(1)
        set_status(installed, namespace, "small", **end)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, out
    assert says in out
    assert "Traceback" not in out


def test_a_deleted_job_ends_the_watch(installed: ApiServer, namespace: str) -> None:
    installed.apply(small_job(), namespace)
    set_status(installed, namespace, "small", phase="Checking")
    process = watching(installed.kubeconfig, "status", "small", "--watch", "-n", namespace)
    try:
        assert process.stdout is not None
        assert "Checking" in process.stdout.readline()
        installed.delete("pij", "small", namespace)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "failed: job small was deleted" in out


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ApiServer]:
    try:
        with ApiServer(tmp_path / "api") as server:
            server.install_crds(CRD)
            yield server
    except NoCluster as missing:
        pytest.skip(str(missing))


def test_a_watch_survives_a_restart_of_the_api_server(own_server: ApiServer) -> None:
    own_server.apply(small_job(), "default")
    set_status(own_server, "default", "small", phase="Checking")
    process = watching(own_server.kubeconfig, "status", "small", "--watch")
    try:
        assert process.stdout is not None
        assert "Checking" in process.stdout.readline()
        own_server.stop_api_server()
        assert "cannot be reached" in process.stdout.readline()
        own_server.start_api_server()
        assert "the API server answers again" in process.stdout.readline()
        set_status(
            own_server,
            "default",
            "small",
            phase="Succeeded",
            conditions=[condition("Succeeded", "True", "Succeeded", "attempt 1: done")],
        )
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, out
    assert "Succeeded" in out
