"""Containers that the cluster injects into pods, such as the proxy of a service mesh, decide nothing."""

import json
from datetime import timedelta
from typing import Any

import pytest
from promptintern_operator.plan import DeletePreflight, StartAttempt, StartPreflight
from promptintern_operator.plan.classify import is_being_prepared
from promptintern_operator.views import PodView

from tests.unit.operator.builders import (
    CLUSTER,
    HEAD,
    NOW,
    WORKER,
    Story,
    container,
    crashed,
    preflight,
    preflight_pod,
    renamed,
    running,
)

PROXY = container("a-proxy")
"""A container that goes on. The kubelet lists the containers by name, so it precedes those of the job."""
DEAD_PROXY = container("a-proxy", exit_code=137, exit_reason="OOMKilled", memory_limit="64Mi")
REFUSAL = json.dumps([{"where": "data.train.uri", "message": "no such object"}])
IDLE = DeletePreflight("small-check-1", "check-1")


def check_with(proxy: Any, **check: Any) -> PodView:
    """Return a running pod of the check whose own container has ended as ``check`` says."""
    return preflight_pod(phase="Running", containers=(proxy, container("check", ended_at=NOW, **check)))


def test_a_check_that_passed_beside_a_container_that_goes_on_starts_the_job_and_is_removed() -> None:
    story = Story()
    pod = check_with(PROXY, exit_code=0)
    result = story.reconcile(preflight(), pod)
    assert result.actions == (StartAttempt(1),)
    assert story.condition("Accepted") == ("True", "Valid")
    assert result.requeue_at == NOW + timedelta(seconds=60)
    assert IDLE not in story.reconcile(preflight(), pod, after=59).actions
    assert IDLE in story.reconcile(preflight(), pod, after=1).actions
    assert IDLE not in story.reconcile(preflight(succeeded=True), pod).actions


def test_a_check_that_refused_beside_a_container_that_goes_on_refuses_the_job_once() -> None:
    story = Story()
    pod = check_with(PROXY, exit_code=2, exit_message=REFUSAL)
    story.reconcile(preflight(), pod)
    assert story.condition("Accepted") == ("False", "Refused")
    assert story.message("Accepted") == "data.train.uri: no such object"
    assert story.reconcile(preflight(), pod, after=60).actions == (IDLE,)
    assert story.reconcile(after=1).actions == ()
    assert story.phase == "Refused"


def test_a_check_that_was_lost_beside_a_container_that_goes_on_is_repeated_and_counted() -> None:
    story = Story()
    story.job = running(retries__infrastructure=1).job
    for number in (1, 2):
        uid = "check-1" + (f"-{number}" if number > 1 else "")
        ended = container("check", ended_at=story.now, exit_code=75, exit_message=REFUSAL)
        pod = preflight_pod(phase="Running", preflight_uid=uid, containers=(PROXY, ended))
        assert story.reconcile(preflight(number=number), pod, after=59).actions == ()
        result = story.reconcile(preflight(number=number), pod, after=1)
        assert (StartPreflight(1, 2) in result.actions) == (number == 1)
    assert story.condition("Failed") == ("True", "CheckFailed")
    assert DeletePreflight("small-check-1-2", "check-1-2") in result.actions


@pytest.mark.parametrize("proxy", [PROXY, DEAD_PROXY])
def test_the_end_of_a_check_is_read_from_its_own_container(proxy: Any) -> None:
    story = Story()
    pod = renamed(check_with(proxy, exit_code=2, exit_message=REFUSAL), phase="Failed")
    story.reconcile(preflight(failed="Container check failed with exit code 2"), pod)
    assert story.message("Accepted") == "data.train.uri: no such object"


def test_an_injected_container_that_ran_out_of_memory_does_not_end_an_attempt() -> None:
    story = running()
    pods = [renamed(pod, containers=(DEAD_PROXY, *pod.containers)) for pod in (HEAD, WORKER)]
    story.reconcile(CLUSTER[0], *pods)
    assert "outcome" not in story.attempt
    assert all("exitCode" not in pod and "reason" not in pod for pod in story.attempt["pods"])
    story.reconcile(crashed(), *pods)
    assert story.attempt["outcome"] == "Application"
    assert "boom" in story.attempt["message"]


def test_a_pod_that_failed_before_its_own_container_started_names_the_container_that_failed() -> None:
    story = running()
    setup = container("a-proxy-setup", exit_code=3, exit_reason="Error", exit_message="no iptables")
    story.reconcile(CLUSTER[0], HEAD, renamed(WORKER, phase="Failed", containers=(setup,)))
    worker = story.attempt["pods"][1]
    assert (worker["reason"], worker["exitCode"], worker["message"]) == ("Error", 3, "no iptables")


@pytest.mark.parametrize("injected", [PROXY, container("a-proxy-setup", exit_code=0, exit_reason="Completed")])
def test_a_pod_that_waits_for_its_image_beside_an_injected_container_is_being_prepared(injected: Any) -> None:
    waits = [
        container(name, waiting_reason="PodInitializing", waiting_message="pulling") for name in ("ray-worker", "logs")
    ]
    pod = renamed(WORKER, phase="Pending", ready=False, containers=(injected, *waits))
    assert is_being_prepared(pod)
    assert not is_being_prepared(renamed(pod, containers=(injected, container("ray-worker"), waits[1])))


def test_a_check_that_passed_beside_a_container_that_never_starts_is_over() -> None:
    story = Story()
    stuck = container("a-proxy", waiting_reason="ImagePullBackOff", waiting_message="no such image")
    pod = renamed(check_with(stuck, exit_code=0), phase="Pending")
    story.reconcile(preflight(), pod)
    assert story.condition("Accepted") == ("True", "Valid")
    assert IDLE in story.reconcile(preflight(), pod, after=60).actions
