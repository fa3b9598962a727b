"""What is kept of what the watches show."""

from promptintern_operator.queue import Key
from promptintern_operator.store import JobBody, Owner, Shelf, Store, owner_of
from promptintern_operator.views import RayJobView

from tests.unit.operator.builders import ray_job

OWNER = Owner("team-a", "job-1")


def test_a_watch_that_was_quicker_than_the_answer_counts() -> None:
    shelf: Shelf[RayJobView] = Shelf()
    newer, made = ray_job(deployment="ValidationFailed"), ray_job(deployment="")
    shelf.put(OWNER, "ray-job-1", newer)
    shelf.add(OWNER, "ray-job-1", made)
    assert shelf.of(OWNER) == (newer,)


def test_an_object_that_was_made_is_there_before_its_watch_tells() -> None:
    shelf: Shelf[RayJobView] = Shelf()
    shelf.add(OWNER, "ray-job-1", ray_job(deployment=""))
    assert shelf.of(OWNER) == (ray_job(deployment=""),)


def test_the_same_label_in_another_namespace_is_another_owner() -> None:
    shelf: Shelf[RayJobView] = Shelf()
    shelf.put(Owner("team-b", "job-1"), "ray-job-1", ray_job())
    assert shelf.of(OWNER) == ()


def test_nothing_is_left_of_what_went() -> None:
    shelf: Shelf[RayJobView] = Shelf()
    shelf.put(OWNER, "ray-job-1", ray_job())
    shelf.drop(OWNER, "ray-job-1")
    shelf.drop(OWNER, "ray-job-1")
    assert shelf.contents() == []


def test_only_what_differs_is_news() -> None:
    shelf: Shelf[RayJobView] = Shelf()
    assert shelf.put(OWNER, "ray-job-1", ray_job())
    assert not shelf.put(OWNER, "ray-job-1", ray_job())
    assert shelf.put(OWNER, "ray-job-1", ray_job(deployment="Complete"))


def test_what_becomes_of_an_object_is_kept_while_it_is_there() -> None:
    shelf: Shelf[RayJobView] = Shelf()
    shelf.change(OWNER, "ray-job-1", deleting=True)
    assert shelf.contents() == []
    shelf.put(OWNER, "ray-job-1", ray_job())
    shelf.change(OWNER, "ray-job-1", deleting=True)
    assert shelf.of(OWNER) == (ray_job(deleting=True),)


def test_who_waits_for_a_first_attempt() -> None:
    store = Store()
    statuses = {"new": {}, "checked": {"phase": "Checking"}, "running": {"attempts": [{"number": 1}]}}
    for name, status in statuses.items():
        store.jobs[Key("team-a", name)] = JobBody(uid=name, version="1", generation=1, body={"status": status})
    names = [*statuses, "gone"]
    assert [name for name in names if store.waits_for_first_attempt(Key("team-a", name))] == ["new", "checked"]


def test_a_label_makes_no_object_a_jobs_own() -> None:
    labels = {"promptintern.dev/job": "small", "promptintern.dev/job-uid": "job-1"}
    made = [{"kind": "PromptInternJob", "name": "small", "uid": "job-1", "controller": True}]
    labelled = {"namespace": "team-a", "labels": labels}
    assert owner_of(labelled | {"ownerReferences": made}, controlled=True) == OWNER
    assert owner_of(labelled | {"ownerReferences": [made[0] | {"uid": "job-0"}]}, controlled=True) is None
    assert owner_of(labelled, controlled=True) is None
    assert owner_of(labelled, controlled=False) == OWNER, "pods are KubeRay's"
    assert owner_of({"namespace": "team-a"}, controlled=False) is None
