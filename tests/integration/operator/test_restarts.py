"""The operator and the API server stop and restart at any moment: jobs go on, and no action is repeated."""

import json
import random
import signal
import time
from collections import Counter
from datetime import datetime, timedelta

from tests.cluster.client import wait_for
from tests.integration.operator.kuberay import Life
from tests.integration.operator.place import Place, Tenant
from tests.integration.operator.requests import PODS, RAY_JOBS

JOBS = 4


def test_killed_at_random_moments(place: Place, team: Tenant) -> None:
    """The operator is killed again and again while jobs go through a failed and a successful attempt."""
    draw = random.Random(7)
    operator = place.operator()
    for n in range(JOBS):
        team.submit(f"job-{n}", Life(starting=0.3, running=1, ends="crashes"), Life(starting=0.3, running=1))
    for _ in range(5):
        operator.start()
        operator.wait_until_leading(40)
        time.sleep(draw.uniform(0.0, 0.8))
        operator.kill()
    operator.start()
    for n in range(JOBS):
        team.wait(f"job-{n}", "Succeeded", 60)
        assert team.attempts(f"job-{n}") == ["Application", "Succeeded"]
        assert team.created_ray_jobs(f"job-{n}") == {f"job-{n}-a1": 1, f"job-{n}-a2": 1}
        events = Counter(team.events(f"job-{n}"))
        # An Event may be lost with the operator; none is recorded twice, except those of each attempt.
        repeated = {
            event: count for event, count in events.items() if count > 2 or (count > 1 and "attempt" in event[1])
        }
        assert not repeated, repeated
    operator.stop()


def test_the_api_server_stops_for_ten_seconds(place: Place, team: Tenant) -> None:
    operator = place.operator()
    operator.start()
    operator.wait_until_leading(40)
    team.submit("before", Life(running=2), Life())
    team.submit("checked", Life())
    team.wait("before", "Training")
    place.server.stop_api_server()
    time.sleep(10)
    place.server.start_api_server()
    if not operator.alive:  # it could not renew its lease, so it ended; the kubelet starts it again
        assert operator.log_lines("the lease was lost; this process ends")
        operator.start()
    team.submit("after", Life())
    for job in ("before", "checked", "after"):
        team.wait(job, "Succeeded", 60)
        assert team.created_ray_jobs(job) == {f"{job}-a1": 1}
    operator.stop()


def test_many_jobs_are_taken_over_at_once(place: Place, team: Tenant) -> None:
    """Kopf's limit on its workers must not limit the jobs per second."""
    for n in range(150):
        team.submit(f"many-{n}", suspend=True)
    operator = place.operator()
    operator.start()
    operator.wait_until_leading(40)
    began = time.monotonic()
    seen = lambda: [team.status(f"many-{n}").get("phase") for n in (0, 75, 149)] == ["Suspended"] * 3  # noqa: E731
    wait_for(seen, 30, "some of the jobs")
    wait_for(lambda: operator.total("promptintern_reconciles_total") >= 150, 30, "all of the jobs")
    took = time.monotonic() - began
    assert took < 8, f"it took {took:.1f} s"
    operator.stop()


def test_a_healthy_cluster_without_kueue_causes_no_warning(place: Place, team: Tenant) -> None:
    operator = place.operator("without-kueue")
    operator.start()
    operator.wait_until_leading(40)
    team.submit("plain", Life())
    team.wait("plain", "Succeeded")
    assert len(operator.log_lines("Kueue not found")) == 1
    assert operator.stop() == 0
    lines = [json.loads(line) for line in operator.text().splitlines()]
    assert [line for line in lines if line["level"] != "info"] == []
    assert all(datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0) for line in lines)


def test_objects_deleted_while_the_operator_was_stopped(place: Place, team: Tenant) -> None:
    """Objects are deleted while the operator is stopped, and the API server restarts meanwhile."""
    operator = place.operator(leader_election=False)
    operator.start()
    wait_for(lambda: operator.probe() == 200, 40, "the operator")
    team.submit("robbed", Life(ends="never"), Life())
    team.wait("robbed", "Training")
    team.submit("gone", Life(ends="never"))
    team.wait("gone", "Training")
    operator.signal(signal.SIGSTOP)
    try:
        place.requests.ask("DELETE", f"{RAY_JOBS.format(team.name)}/robbed-a1")
        team.delete("gone")
        wait_for(lambda: team.ray_jobs() == [], 20, "the RayJobs to go")
        wait_for(lambda: not place.requests.items(PODS.format(team.name), "ray.io/cluster"), 20, "the pods to go")
        place.server.stop_api_server()
        place.server.start_api_server()
    finally:
        operator.signal(signal.SIGCONT)
    team.wait("robbed", "Succeeded", 30)
    assert team.attempts("robbed") == ["Infrastructure", "Succeeded"]
    left = lambda: operator.metrics().get(("promptintern_jobs", team.name, "Training"), 0)  # noqa: E731
    wait_for(lambda: left() == 0, 20, "the job that is gone to be forgotten")
    operator.stop()
