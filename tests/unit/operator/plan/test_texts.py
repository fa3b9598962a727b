"""Texts that are longer than the status of a job allows: a tenant may write them into the statuses of its objects."""

from typing import Any

import jsonschema
import pytest
from promptintern_api.schema import open_api_schema

from tests.unit.operator.builders import (
    CLUSTER,
    HEAD,
    QUEUE_LABEL,
    WORKER,
    Story,
    accepted,
    container,
    failed,
    preflight,
    preflight_pod,
    ray_job,
    renamed,
    running,
    waiting_pod,
    workload,
)

LONG = "x" * 32_768
STATUS: dict[str, Any] = open_api_schema()["properties"]["status"]


def assert_storable(story: Story) -> None:
    """Assert that the API server accepts the status."""
    jsonschema.validate(story.status, STATUS)


@pytest.mark.parametrize(
    "objects",
    [
        pytest.param([CLUSTER[0], renamed(HEAD, reason=LONG), WORKER], id="reason of a pod"),
        pytest.param([CLUSTER[0], renamed(HEAD, message=LONG), WORKER], id="message of a pod"),
        pytest.param([CLUSTER[0], renamed(HEAD, disrupted=LONG), WORKER], id="reason of a disruption"),
        pytest.param([CLUSTER[0], renamed(HEAD, unschedulable=LONG, phase="Pending"), WORKER], id="unschedulable"),
        pytest.param(
            [CLUSTER[0], HEAD, renamed(WORKER, containers=(container(exit_code=1, exit_reason=LONG),))],
            id="reason of a container",
        ),
        pytest.param([ray_job(), waiting_pod(reason=LONG, message=LONG)], id="reason of a waiting container"),
        pytest.param([failed(reason=LONG), HEAD, WORKER], id="reason of a RayJob"),
        pytest.param([failed(message=LONG), HEAD, WORKER], id="message of a RayJob"),
        pytest.param([failed(message="exit code " + "9" * 5_000), HEAD, WORKER], id="exit code of a RayJob"),
        pytest.param([ray_job(deployment="ValidationFailed", message=LONG)], id="validation of a RayJob"),
        pytest.param([ray_job(pod_refusal=LONG), HEAD], id="refusal of a pod"),
        pytest.param([ray_job(cluster=LONG), renamed(HEAD, cluster=LONG)], id="name of a cluster"),
    ],
)
def test_a_status_has_room_for_every_text_of_a_dependent(objects: list[Any]) -> None:
    """Otherwise the API server refuses the status, and the job is reconciled again and again, without any effect."""
    story = running()
    for seconds in (30, 1_000):
        events = story.reconcile(*objects, after=seconds).events
        assert_storable(story)
        assert all(len(event.reason) <= 128 and len(event.message) <= 1_024 for event in events)


def test_a_status_has_room_for_what_kueue_writes() -> None:
    story = accepted(labels=QUEUE_LABEL)
    queued = ray_job(deployment="Suspended", suspended=True, queue=LONG)
    story.reconcile(queued, workload(evicted=LONG, message=LONG))
    assert_storable(story)


def test_a_status_has_room_for_what_a_check_reports() -> None:
    for check, pod in (
        (preflight(failed=LONG), preflight_pod(exit_code=2, exit_message=LONG, exit_reason=LONG)),
        (preflight(), preflight_pod(waiting_reason="ImagePullBackOff", waiting_message=LONG)),
    ):
        story = Story()
        story.reconcile(check, pod)
        assert_storable(story)


@pytest.mark.parametrize("name", ["User", "Application", "Infrastructure", "Preemption"])
def test_a_status_has_room_for_the_failure_that_the_head_pod_reports(name: str) -> None:
    story = running()
    story.training = {"term": 1, "failure": {"class": name, "message": LONG, "rayJob": "small-a1"}}
    story.reconcile(failed(message="exit code 1"), HEAD, WORKER, after=30)
    assert_storable(story)
