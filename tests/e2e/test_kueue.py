"""Two tenants share a quota of one job: their jobs take turns, and an urgent job preempts."""

import secrets
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e.short_job import SHORT, wait_until_training
from tests.e2e.tenant import Team
from tests.e2e.terms import TermWatch, planned_stops, steps_lost

_API = "kueue.x-k8s.io/v1beta2"
_QUEUE = {"kueue.x-k8s.io/queue-name": "training"}
_URGENT = {**_QUEUE, "kueue.x-k8s.io/priority-class": "urgent"}
_LONG = {"schedule": {"explicit": [{"templateRate": rate, "shots": 0, "epochs": n} for rate, n in ((1, 1), (0, 400))]}}
"""A schedule that is long enough for another job to be checked meanwhile."""
_ONE_JOB = {"cpu": "600m", "memory": "7Gi"}
"""A quota for one job of `SHORT` with its head, but not for two."""


def _object(kind: str, name: str, namespace: str | None = None, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": _API, "kind": kind, "metadata": metadata, **fields}


@pytest.fixture(scope="module")
def teams(team: Team) -> Iterator[tuple[Team, Team]]:
    """Two tenants, each with a queue, that share one ClusterQueue with a quota for one job."""
    cluster = team.cluster
    other = Team.create(cluster, f"team-{secrets.token_hex(3)}")
    cluster.start_kueue()
    quota = [{"name": name, "nominalQuota": amount} for name, amount in _ONE_JOB.items()]
    shared = {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [{"coveredResources": list(_ONE_JOB), "flavors": [{"name": "any", "resources": quota}]}],
    }
    queues = [
        _object("LocalQueue", "training", tenant.namespace, spec={"clusterQueue": "shared"}) for tenant in (team, other)
    ]
    cluster.apply(
        [
            _object("ResourceFlavor", "any"),
            _object("ClusterQueue", "shared", spec=shared),
            _object("WorkloadPriorityClass", "urgent", value=1000),
            *queues,
        ]
    )
    yield team, other
    for queue in queues:
        cluster.delete("localqueue", queue["metadata"]["name"], queue["metadata"]["namespace"])
    for kind, name in (
        ("clusterqueue", "shared"),
        ("resourceflavor", "any"),
    ):  # Kueue must run to remove its finalizers
        cluster.delete(kind, name)
    cluster.stop_kueue()


class RunningJobs:
    """Polls every second which jobs have pods that are not being deleted."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: list[frozenset[str]] = []

    def __enter__(self) -> "RunningJobs":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1):
            pods = self._cluster.list("pods", None, "promptintern.dev/role in (head, worker)")
            staying = [pod["metadata"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]
            self.seen.append(frozenset(pod["labels"]["promptintern.dev/job"] for pod in staying))


def test_one_job_at_a_time_and_the_urgent_one_first(teams: tuple[Team, Team]) -> None:
    first, second = teams
    one = first.submit(name="first", labels=_QUEUE, **{**SHORT, **_LONG})
    wait_until_training(first, one, stage=1, step=20)
    waiting = first.submit(name="waits", labels=_QUEUE, **SHORT)
    with RunningJobs(first.cluster) as running, TermWatch(first, one) as watch:
        pending = lambda: first.condition(waiting, "QuotaReserved").get("reason") == "Pending"  # noqa: E731
        first.cluster.wait_for(pending, timeout=120, what=f"the second job to wait: {first.describe(waiting)}")
        assert first.status(waiting)["phase"] == "Queued"
        urgent = second.submit(name="urgent", labels=_URGENT, storage=second.storage(), **SHORT)
        preempted = lambda: first.condition(one, "QuotaReserved").get("reason") == "Preempted"  # noqa: E731
        first.cluster.wait_for(preempted, timeout=240, what=f"the preemption: {first.describe(one)}")
        second.wait(urgent, seconds=900)
        assert first.status(one)["phase"] in ("Queued", "Starting", "Training")
        first.wait(one, seconds=900)
        first.wait(waiting, seconds=900)
    for team, name in ((first, one), (second, urgent), (first, waiting)):
        assert team.condition(name, "Succeeded").get("status") == "True", team.describe(name)
        assert [attempt["outcome"] for attempt in team.status(name)["attempts"]] == ["Succeeded"], (
            "a preemption must not cost an attempt"
        )
    assert max(map(len, running.seen)) == 1, "two jobs had pods at the same time"
    order = [next(iter(jobs)) for jobs in running.seen if jobs]
    turns = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert turns in ([one, urgent, one, waiting], [one, urgent, waiting, one])
    assert first.status(one)["attempts"][0]["headPods"] == 2
    watch.check()
    ((saved, resumed),) = planned_stops(watch.log())
    assert saved == resumed >= 20, "it did not resume where it saved when it was preempted"
    assert steps_lost(watch.log()) == 0
