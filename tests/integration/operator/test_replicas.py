"""Two replicas: one works, and the other takes over."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.cluster.client import wait_for
from tests.integration.operator.kuberay import Life
from tests.integration.operator.place import Place, Tenant
from tests.integration.operator.process import Operator

LEASE = 6


@pytest.fixture
def replicas(place: Place) -> Iterator[tuple[Operator, Operator]]:
    """The first leads, the second waits."""
    first, second = (place.operator(f"operator-{n}", lease_seconds=LEASE) for n in "ab")
    first.start()
    first.wait_until_leading(40)
    second.start()
    wait_for(lambda: second.probe("/readyz") == 200, 30, "the second to be ready")
    yield first, second
    place.end_operators()
    # The next test must not wait for this lease.
    place.server.delete("lease", "promptintern", "promptintern-system")


def led_at(operator: Operator) -> float:
    """Wait until the operator leads and return the time."""
    wait_for(lambda: operator.leads, 40, f"{operator.name} to lead")
    return time.monotonic()


def test_the_lease_goes_with_the_release(place: Place) -> None:
    """The garbage collector deletes it with its owner. A lease from before there were owners gets one, too."""
    server, system = place.server, "promptintern-system"
    server.apply(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "promptintern", "namespace": system},
        }
    )
    account = server.get("serviceaccount", "promptintern", system)
    assert account is not None
    owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": "promptintern", "uid": account["metadata"]["uid"]}
    for name in ("operator-a", "operator-b"):  # the first finds a lease, the second creates one
        operator = place.operator(name, lease_seconds=LEASE)
        operator.start()
        operator.wait_until_leading(40)
        lease = server.get("lease", "promptintern", system)
        assert lease is not None and lease["metadata"]["ownerReferences"] == [owner]
        assert operator.stop() == 0
        server.delete("lease", "promptintern", system)


def test_one_leads(replicas: tuple[Operator, Operator], team: Tenant) -> None:
    first, second = replicas
    team.submit("one")
    team.wait("one", "Succeeded")
    assert first.leads and not second.leads
    assert second.total("promptintern_api_requests_total") == 0 and not second.log_lines("action")
    assert second.probe("/healthz") == 200

    team.submit("over", Life(running=6))
    team.wait("over", "Training")
    began = time.monotonic()
    assert first.stop() == 0
    stopped = time.monotonic() - began
    handed_over = led_at(second) - began
    assert stopped < 4, f"it took {stopped:.1f} s to stop"
    assert handed_over < LEASE, f"it took {handed_over:.1f} s"
    team.wait("over", "Succeeded")
    assert team.created_ray_jobs("over") == {"over-a1": 1}


def test_killed_leader(replicas: tuple[Operator, Operator], team: Tenant) -> None:
    first, second = replicas
    team.submit("left", Life(running=3))
    team.wait("left", "Training")
    began = time.monotonic()
    first.kill()
    taken = led_at(second) - began
    assert taken < LEASE + 4, f"it took {taken:.1f} s"
    team.wait("left", "Succeeded")
    assert team.created_ray_jobs("left") == {"left-a1": 1} and team.attempts("left") == ["Succeeded"]


def test_no_two_lead_while_the_api_server_hangs(
    place: Place, replicas: tuple[Operator, Operator], team: Tenant
) -> None:
    first, second = replicas
    team.submit("hung", Life(running=1))
    team.wait("hung", "Training")
    place.server.pause_api_server()
    try:
        began = time.monotonic()
        while time.monotonic() - began < LEASE + 2:
            assert not (first.leads and second.leads)
            time.sleep(0.1)
        # It stopped working when its lease expired, before another replica could take it.
        assert not first.alive and first.log_lines("the lease was lost; this process ends")
        assert not second.leads
    finally:
        place.server.resume_api_server()
    led_at(second)
    team.wait("hung", "Succeeded")
    assert team.created_ray_jobs("hung") == {"hung-a1": 1}


def test_a_leader_that_slept(replicas: tuple[Operator, Operator], team: Tenant) -> None:
    """The machine slept for longer than the lease, and the process notices that it no longer leads."""
    first, second = replicas
    first.signal(signal.SIGSTOP)
    led_at(second)
    team.submit("awake")
    team.wait("awake", "Succeeded")
    first.signal(signal.SIGCONT)
    wait_for(lambda: not first.alive, LEASE, "the first to end")
    assert second.leads and team.created_ray_jobs("awake") == {"awake-a1": 1}
    assert not [line for line in first.log_lines("action") if line["job"] == "awake"], (
        "it did what the other replica does by now"
    )
