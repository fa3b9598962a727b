"""Jobs wait until all that belongs to them was listed, and for nothing in other namespaces."""

from collections.abc import Iterator

import pytest
from promptintern_operator import watching
from promptintern_operator.listed import Listed
from promptintern_operator.plan import KubeRay
from promptintern_operator.store import Store

KINDS = {
    "promptinternjobs": "/apis/promptintern.dev/v1alpha1",
    "pods": "/api/v1",
    "jobs": "/apis/batch/v1",
    "rayjobs": "/apis/ray.io/v1",
    "workloads": "/apis/kueue.x-k8s.io/v1beta1",
}


@pytest.fixture(autouse=True)
def _watches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, empty in (("_WATCHES", {}), ("_SERVED", set()), ("_REFUSED", set())):
        monkeypatch.setattr(watching, name, empty)
    yield


def path(plural: str, namespace: str | None) -> str:
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{KINDS[plural]}{where}/{plural}"


def hear(*plurals: str, namespace: str | None = None) -> None:
    """The watches of these kinds begin."""
    watching._WATCHES.update({path(plural, namespace): 0.0 for plural in plurals})


def refuse(*plurals: str, namespace: str) -> None:
    watching._REFUSED.update(path(plural, namespace) for plural in plurals)


def store(*, kuberay: bool = True) -> Store:
    found = Store()
    found.kuberay = KubeRay(usable=kuberay)
    return found


@pytest.mark.parametrize("missing", KINDS)
def test_no_kind_may_be_missing(missing: str) -> None:
    listed = Listed(store(), namespaces=(), kueue=True)
    hear(*(kind for kind in KINDS if kind != missing))
    assert not listed("team-a")
    assert not listed.as_far_as_allowed()
    hear(missing)
    assert listed("team-a")
    assert listed.as_far_as_allowed()


def test_kinds_that_the_cluster_does_not_have_are_not_waited_for() -> None:
    listed = Listed(store(kuberay=False), namespaces=(), kueue=False)
    hear("promptinternjobs", "pods", "jobs")
    assert listed("team-a")


def test_a_namespace_that_may_not_be_watched_holds_up_its_own_jobs_only() -> None:
    listed = Listed(store(), namespaces=("team-a", "team-b"), kueue=False)
    mine = ("promptinternjobs", "pods", "jobs", "rayjobs")
    hear(*mine, namespace="team-a")
    assert not listed.as_far_as_allowed(), "team-b is on its way"
    refuse("pods", namespace="team-b")
    assert listed.as_far_as_allowed()
    assert listed("team-a")
    hear("promptinternjobs", "jobs", "rayjobs", namespace="team-b")
    assert not listed("team-b"), "a job without its pods would count as lost"
    hear("pods", namespace="team-b")
    assert listed("team-b")


def test_what_was_known_once_is_kept_by_watches() -> None:
    listed = Listed(store(), namespaces=(), kueue=True)
    hear(*KINDS)
    assert listed("team-a")
    watching.forget("workloads")
    assert listed("team-a")
