"""Jobs wait until the caches of their own namespace have synced."""

from collections.abc import Iterator

import pytest
from promptintern_operator import watch_health
from promptintern_operator.cache import Cache
from promptintern_operator.plan import KubeRay
from promptintern_operator.sync import HasSynced

KINDS = {
    "promptinternjobs": "/apis/promptintern.dev/v1alpha1",
    "pods": "/api/v1",
    "jobs": "/apis/batch/v1",
    "rayjobs": "/apis/ray.io/v1",
    "workloads": "/apis/kueue.x-k8s.io/v1beta1",
}


@pytest.fixture(autouse=True)
def _watches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, empty in (("_LAST_ACTIVITY", {}), ("_WATCHED", set()), ("_FORBIDDEN", set())):
        monkeypatch.setattr(watch_health, name, empty)
    yield


def path(plural: str, namespace: str | None) -> str:
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{KINDS[plural]}{where}/{plural}"


def hear(*plurals: str, namespace: str | None = None) -> None:
    """Begin the watches of these kinds."""
    watch_health._LAST_ACTIVITY.update({path(plural, namespace): 0.0 for plural in plurals})


def refuse(*plurals: str, namespace: str) -> None:
    watch_health._FORBIDDEN.update(path(plural, namespace) for plural in plurals)


def cache(*, kuberay: bool = True) -> Cache:
    found = Cache()
    found.kuberay = KubeRay(usable=kuberay)
    return found


@pytest.mark.parametrize("missing", KINDS)
def test_every_kind_must_be_listed(missing: str) -> None:
    has_synced = HasSynced(cache(), namespaces=(), kueue=True)
    hear(*(kind for kind in KINDS if kind != missing))
    assert not has_synced("team-a")
    assert not has_synced.where_allowed()
    hear(missing)
    assert has_synced("team-a")
    assert has_synced.where_allowed()


def test_kinds_that_the_cluster_does_not_have_are_not_waited_for() -> None:
    has_synced = HasSynced(cache(kuberay=False), namespaces=(), kueue=False)
    hear("promptinternjobs", "pods", "jobs")
    assert has_synced("team-a")


def test_a_namespace_that_may_not_be_watched_holds_up_its_own_jobs_only() -> None:
    has_synced = HasSynced(cache(), namespaces=("team-a", "team-b"), kueue=False)
    mine = ("promptinternjobs", "pods", "jobs", "rayjobs")
    hear(*mine, namespace="team-a")
    assert not has_synced.where_allowed(), "team-b may still sync"
    refuse("pods", namespace="team-b")
    assert has_synced.where_allowed()
    assert has_synced("team-a")
    hear("promptinternjobs", "jobs", "rayjobs", namespace="team-b")
    assert not has_synced("team-b"), "a job without its pods would count as lost"
    hear("pods", namespace="team-b")
    assert has_synced("team-b")


@pytest.mark.parametrize(
    ("served", "is_kept"), [("kueue.x-k8s.io/v1beta1", True), ("kueue.x-k8s.io/v1beta2", False), (None, False)]
)
def test_a_watch_of_a_version_that_is_not_served_any_more_does_not_count_as_silent(
    served: str | None, is_kept: bool
) -> None:
    hear("workloads", "pods")
    hear("workloads", namespace="team-a")
    watch_health.forget("workloads", except_for=served)
    assert watch_health.are_watched(["workloads"]) is is_kept
    assert watch_health.are_watched(["workloads"], "team-a") is is_kept
    assert watch_health.are_watched(["pods"])


def test_a_synced_namespace_stays_synced() -> None:
    has_synced = HasSynced(cache(), namespaces=(), kueue=True)
    hear(*KINDS)
    assert has_synced("team-a")
    watch_health.forget("workloads")
    assert has_synced("team-a")
