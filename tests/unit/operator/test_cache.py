"""The cache of observed objects."""

from promptintern_operator.cache import Cache, ObjectCache, Owner, owner_of
from promptintern_operator.queue import Key
from promptintern_operator.views import RayJobView

from tests.unit.operator.builders import ray_job
from tests.unit.operator.fake_kube import job_body, view_of_job

OWNER = Owner("team-a", "job-1")


def test_a_view_from_the_watch_wins_over_the_response() -> None:
    objects: ObjectCache[RayJobView] = ObjectCache()
    newer, created = ray_job(deployment="ValidationFailed"), ray_job(deployment="")
    objects.put(OWNER, "ray-job-1", newer)
    objects.put_if_absent(OWNER, "ray-job-1", created)
    assert objects.by_owner(OWNER) == (newer,)


def test_a_created_object_is_cached_before_its_watch_delivers_it() -> None:
    objects: ObjectCache[RayJobView] = ObjectCache()
    objects.put_if_absent(OWNER, "ray-job-1", ray_job(deployment=""))
    assert objects.by_owner(OWNER) == (ray_job(deployment=""),)


def test_the_same_label_in_another_namespace_is_another_owner() -> None:
    objects: ObjectCache[RayJobView] = ObjectCache()
    objects.put(Owner("team-b", "job-1"), "ray-job-1", ray_job())
    assert objects.by_owner(OWNER) == ()


def test_a_removed_object_leaves_nothing() -> None:
    objects: ObjectCache[RayJobView] = ObjectCache()
    objects.put(OWNER, "ray-job-1", ray_job())
    objects.remove(OWNER, "ray-job-1")
    objects.remove(OWNER, "ray-job-1")
    assert objects.entries() == []


def test_only_a_different_view_is_a_change() -> None:
    objects: ObjectCache[RayJobView] = ObjectCache()
    assert objects.put(OWNER, "ray-job-1", ray_job())
    assert not objects.put(OWNER, "ray-job-1", ray_job())
    assert objects.put(OWNER, "ray-job-1", ray_job(deployment="Complete"))


def test_an_update_changes_only_a_cached_object() -> None:
    objects: ObjectCache[RayJobView] = ObjectCache()
    objects.update(OWNER, "ray-job-1", deleting=True)
    assert objects.entries() == []
    objects.put(OWNER, "ray-job-1", ray_job())
    objects.update(OWNER, "ray-job-1", deleting=True)
    assert objects.by_owner(OWNER) == (ray_job(deleting=True),)


def test_awaiting_the_first_attempt() -> None:
    cache = Cache()
    statuses = {"new": {}, "checked": {"phase": "Checking"}, "running": {"attempts": [{"number": 1}]}}
    for name, status in statuses.items():
        cache.jobs[Key("team-a", name)] = view_of_job(job_body(status))
    names = [*statuses, "gone"]
    assert [name for name in names if cache.awaits_first_attempt(Key("team-a", name))] == ["new", "checked"]


def test_a_label_alone_makes_no_dependent() -> None:
    labels = {"promptintern.dev/job": "small", "promptintern.dev/job-uid": "job-1"}
    owners = [{"kind": "PromptInternJob", "name": "small", "uid": "job-1", "controller": True}]
    labelled = {"namespace": "team-a", "labels": labels}
    assert owner_of(labelled | {"ownerReferences": owners}, controlled=True) == OWNER
    assert owner_of(labelled | {"ownerReferences": [owners[0] | {"uid": "job-0"}]}, controlled=True) is None
    assert owner_of(labelled, controlled=True) is None
    assert owner_of(labelled, controlled=False) == OWNER, "KubeRay controls the pods"
    assert owner_of({"namespace": "team-a"}, controlled=False) is None
