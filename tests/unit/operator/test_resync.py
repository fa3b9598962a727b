"""What is gone without a word of the watch is dropped, and whoever lost it is looked at again."""

import asyncio

import pytest
from promptintern_operator.kube import RequestFailed, Resource
from promptintern_operator.queue import Key
from promptintern_operator.resync import resync
from promptintern_operator.store import JobBody, Owner, Store

from tests.unit.operator.builders import JOB_UID, pod, ray_job, workload
from tests.unit.operator.fake_kube import job_body

KEY, OWNER, RAY = Key("team-a", "small"), Owner("team-a", JOB_UID), Owner("team-a", "ray-job-1")


class Lists:
    """An API server that lists uids by kind."""

    def __init__(self, **there: set[str]) -> None:
        self.there = there
        self.asked: list[tuple[str, str]] = []
        self.refused: set[str | None] = set()

    async def uids(self, resource: Resource, namespace: str | None, *, selector: str) -> set[str]:
        self.asked.append((resource.plural, selector))
        if namespace in self.refused:
            raise RequestFailed("forbidden", status=403, reason="Forbidden")
        return self.there.get(resource.plural, set())


def full() -> Store:
    """A job with a RayJob, a pod and a Workload."""
    store = Store()
    store.jobs[KEY] = JobBody.of(job_body({}))
    store.ray_jobs.put(OWNER, "ray-job-1", ray_job())
    store.ray_job_owners[RAY] = KEY
    store.pods.put(OWNER, "uid-of-head", pod())
    store.workloads.put(RAY, "workload-1", workload())
    return store


ALL = {"promptinternjobs": {JOB_UID}, "rayjobs": {"ray-job-1"}, "pods": {"uid-of-head"}, "workloads": {"workload-1"}}


def _resync(store: Store, lists: Lists, *namespaces: str) -> set[Key]:
    return asyncio.run(resync(lists, store, namespaces))  # type: ignore[arg-type]


def test_nothing_changes_where_all_is_there() -> None:
    store = full()
    assert _resync(store, Lists(**ALL)) == set()
    assert len(store.workloads.of(RAY)) == 1


def test_a_workload_that_is_gone_is_dropped_and_its_job_looked_at() -> None:
    """Kueue may have made another for the same RayJob, and the older one must not speak for it."""
    store = full()
    lists = Lists(**{**ALL, "workloads": set()})
    assert _resync(store, lists) == {KEY}
    assert store.workloads.of(RAY) == ()
    assert ("workloads", "") in lists.asked, "Kueue's objects carry no label of ours"


def test_a_ray_job_that_is_gone_is_dropped() -> None:
    store = full()
    assert _resync(store, Lists(**{**ALL, "rayjobs": set(), "workloads": set()})) == {KEY}
    assert store.ray_jobs.of(OWNER) == ()
    assert store.ray_job_owners == {}


def test_without_kueue_its_kind_is_not_asked_for() -> None:
    store = full()
    store.workloads.drop(RAY, "workload-1")
    lists = Lists(**ALL)
    _resync(store, lists)
    assert "workloads" not in {plural for plural, _ in lists.asked}


def test_a_namespace_that_may_not_be_listed_keeps_what_is_known_and_no_other_does() -> None:
    """It was deleted, and our Role with it, or the Role alone: its jobs may run on."""
    store = full()
    other, lost = Owner("team-b", "job-2"), Owner("team-b", "ray-job-2")
    store.jobs[Key("team-b", "small")] = JobBody.of(job_body({}) | {"metadata": _meta("team-b", "job-2")})
    store.ray_jobs.put(other, "ray-job-2", ray_job())
    store.ray_job_owners[lost] = Key("team-b", "small")
    lists = Lists()
    lists.refused = {"team-a"}
    assert _resync(store, lists, "team-a", "team-b") == {Key("team-b", "small")}
    assert list(store.jobs) == [KEY]
    assert len(store.ray_jobs.of(OWNER)) == len(store.workloads.of(RAY)) == 1
    assert store.ray_jobs.of(other) == ()


def test_a_cluster_that_may_not_be_listed_drops_nothing() -> None:
    store, lists = full(), Lists()
    lists.refused = {None}
    with pytest.raises(RequestFailed):
        _resync(store, lists)
    assert list(store.jobs) == [KEY]


def _meta(namespace: str, uid: str) -> dict[str, str]:
    return {"name": "small", "namespace": namespace, "uid": uid, "resourceVersion": "1"}
