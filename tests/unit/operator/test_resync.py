"""Objects whose deletion no watch reported are removed, and their jobs are requeued."""

import asyncio

import pytest
from promptintern_operator.cache import Cache, Home, Owner
from promptintern_operator.kube import RequestFailed, Resource
from promptintern_operator.queue import Key
from promptintern_operator.resync import resync

from tests.unit.operator.builders import JOB_UID, pod, ray_job, workload
from tests.unit.operator.fake_kube import job_body, view_of_job

KEY, OWNER, RAY = Key("team-a", "small"), Owner("team-a", JOB_UID), Owner("team-a", "ray-job-1")


class Lists:
    """An API server that lists uids, by kind."""

    def __init__(self, **uids: set[str]) -> None:
        self.uids = uids
        self.requests: list[tuple[str, str]] = []
        self.forbidden: set[str | None] = set()

    async def preferred(self, group: str, plural: str) -> Resource:
        return Resource(f"{group}/v1beta2", plural)

    async def list_uids(self, resource: Resource, namespace: str | None, *, selector: str) -> set[str]:
        self.requests.append((resource.plural, selector))
        if namespace in self.forbidden:
            raise RequestFailed("forbidden", status=403, reason="Forbidden")
        return self.uids.get(resource.plural, set())


def full() -> Cache:
    """Return a cache with a job, its RayJob, a pod and a Workload."""
    cache = Cache()
    cache.jobs[KEY] = view_of_job(job_body({}))
    cache.ray_jobs.put(OWNER, "ray-job-1", ray_job())
    cache.homes[RAY] = Home(OWNER, KEY)
    cache.pods.put(OWNER, "uid-of-head", pod())
    cache.homes[Owner("team-a", "uid-of-head")] = Home(OWNER, KEY)
    cache.workloads.put(RAY, "workload-1", workload())
    return cache


ALL = {"promptinternjobs": {JOB_UID}, "rayjobs": {"ray-job-1"}, "pods": {"uid-of-head"}, "workloads": {"workload-1"}}


def _resync(cache: Cache, lists: Lists, *namespaces: str) -> set[Key]:
    return asyncio.run(resync(lists, cache, namespaces))  # type: ignore[arg-type]


def test_nothing_changes_if_all_objects_exist() -> None:
    cache = full()
    assert _resync(cache, Lists(**ALL)) == set()
    assert len(cache.workloads.by_owner(RAY)) == 1


def test_a_workload_that_is_gone_is_removed_and_its_job_requeued() -> None:
    """Kueue may have created another one for the same RayJob; the older one must not count for it."""
    cache = full()
    lists = Lists(**{**ALL, "workloads": set()})
    assert _resync(cache, lists) == {KEY}
    assert cache.workloads.by_owner(RAY) == ()
    assert ("workloads", "") in lists.requests, "Kueue's objects carry no label of ours"


def test_a_ray_job_that_is_gone_is_removed() -> None:
    cache = full()
    assert _resync(cache, Lists(**{**ALL, "rayjobs": set(), "workloads": set()})) == {KEY}
    assert cache.ray_jobs.by_owner(OWNER) == ()
    assert RAY not in cache.homes


def test_without_kueue_no_workloads_are_listed() -> None:
    cache = full()
    cache.workloads.remove(RAY, "workload-1")
    lists = Lists(**ALL)
    _resync(cache, lists)
    assert "workloads" not in {plural for plural, _ in lists.requests}


def test_only_a_forbidden_namespace_keeps_its_cached_objects() -> None:
    """The namespace was deleted with our Role, or the Role alone was; in that case its jobs run on."""
    cache = full()
    other, lost = Owner("team-b", "job-2"), Owner("team-b", "ray-job-2")
    cache.jobs[Key("team-b", "small")] = view_of_job(job_body({}) | {"metadata": _meta("team-b", "job-2")})
    cache.ray_jobs.put(other, "ray-job-2", ray_job())
    cache.homes[lost] = Home(other, Key("team-b", "small"))
    lists = Lists()
    lists.forbidden = {"team-a"}
    assert _resync(cache, lists, "team-a", "team-b") == {Key("team-b", "small")}
    assert list(cache.jobs) == [KEY]
    assert len(cache.ray_jobs.by_owner(OWNER)) == len(cache.workloads.by_owner(RAY)) == 1
    assert cache.ray_jobs.by_owner(other) == ()


def test_a_forbidden_cluster_keeps_its_cached_objects() -> None:
    cache, lists = full(), Lists()
    lists.forbidden = {None}
    with pytest.raises(RequestFailed):
        _resync(cache, lists)
    assert list(cache.jobs) == [KEY]


def _meta(namespace: str, uid: str) -> dict[str, str]:
    return {"name": "small", "namespace": namespace, "uid": uid, "resourceVersion": "1"}
