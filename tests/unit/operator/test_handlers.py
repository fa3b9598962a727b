"""The effect of watch events on the cache and the workqueue."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from promptintern_api.contract import LABEL_JOB as JOB
from promptintern_api.contract import LABEL_JOB_UID as JOB_UID
from promptintern_operator.cache import Cache, Owner
from promptintern_operator.handlers import build_registry
from promptintern_operator.intake import reduce_event
from promptintern_operator.queue import Key, Workqueue

KEY = Key("team-a", "small")


class Watches:
    """Calls the handlers as Kopf would, with reduced objects, and with a queue that only records its keys."""

    def __init__(self) -> None:
        self.cache, self.added = Cache(), list[tuple[str, Key]]()
        queue = Workqueue()
        queue.add, queue.add_batched = self._add, self._add_batched  # type: ignore[method-assign]
        handlers = build_registry(self.cache, queue)._watching.get_all_handlers()
        self._handlers: dict[str, Any] = {str(handler.id).split(".")[-1]: handler.fn for handler in handlers}

    async def _add(self, key: Key) -> None:
        self.added.append(("at once", key))

    def _add_batched(self, key: Key) -> None:
        self.added.append(("soon", key))

    def show(self, handler: str, body: Mapping[str, Any], what: str = "MODIFIED") -> list[tuple[str, Key]]:
        """Deliver one change and return the keys that were queued."""
        self.added = []
        plural = {"job_changed": "promptinternjobs", "workload_changed": "workloads"}.get(handler) or handler[:-8]
        event = json.loads(reduce_event(plural, json.dumps({"type": what, "object": body}).encode()))
        asyncio.run(self._handlers[handler](event=event, body=event["object"]))
        return self.added


def a_job(name: str = "small", version: int = 1) -> dict[str, Any]:
    meta = {"name": name, "namespace": "team-a", "uid": f"uid-of-{name}", "resourceVersion": str(version)}
    return {"metadata": meta | {"managedFields": [{}]}, "spec": {}}


def a_child(uid: str, job: str = "small", **more: Any) -> dict[str, Any]:
    labels = {JOB: job, JOB_UID: f"uid-of-{job}"}
    created = "2026-01-02T03:04:05Z"
    owner = {"kind": "PromptInternJob", "name": job, "uid": f"uid-of-{job}", "controller": True}
    meta = {"name": uid, "namespace": "team-a", "uid": uid, "labels": labels, "creationTimestamp": created}
    return {"metadata": meta | {"ownerReferences": [owner]}, **more}


def a_workload(uid: str, ray_job: str) -> dict[str, Any]:
    owner = {"kind": "RayJob", "uid": ray_job}
    return {"metadata": {"name": uid, "namespace": "team-a", "uid": uid, "ownerReferences": [owner]}}


def test_a_changed_job_is_queued_at_once_and_our_own_write_is_not() -> None:
    watches = Watches()
    assert watches.show("job_changed", a_job()) == [("at once", KEY)]
    assert "managedFields" not in (watches.cache.jobs[KEY].body() or {})["metadata"]
    assert watches.show("job_changed", a_job()) == []
    assert watches.show("job_changed", a_job(version=2)) == [("at once", KEY)]
    assert watches.show("job_changed", a_job(version=2), "DELETED") == [("at once", KEY)]


@pytest.mark.parametrize(
    ("handler", "when"), [("jobs-changed", "at once"), ("rayjobs-changed", "soon"), ("pods-changed", "soon")]
)
def test_a_dependent_queues_its_job_if_its_view_changed(handler: str, when: str) -> None:
    watches = Watches()
    assert watches.show(handler, a_child("x")) == [(when, KEY)]
    assert watches.show(handler, a_child("x", spec={"nobody": "looks"})) == []
    gone = a_child("x")
    gone["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:06Z"
    assert watches.show(handler, gone) == [(when, KEY)]
    assert watches.show(handler, gone, "DELETED") == [(when, KEY)]


@pytest.mark.parametrize("job_first", [True, False])
def test_the_cache_is_empty_when_all_objects_are_gone(job_first: bool) -> None:
    watches, names = Watches(), [f"job-{n}" for n in range(5)]
    children = ("rayjobs-changed", "pods-changed", "jobs-changed")
    seen = [("job_changed", a_job(name)) for name in names]
    seen += [(kind, a_child(f"{kind} of {name}", name)) for name in names for kind in children]
    seen += [("workload_changed", a_workload(f"quota of {name}", f"rayjobs-changed of {name}")) for name in names]
    for handler, body in seen:
        watches.show(handler, body, "ADDED")
    assert watches.cache.observed(Owner("team-a", "uid-of-job-0"), {"rayjobs-changed of job-0"}).workloads
    for handler, body in seen if job_first else reversed(seen):
        watches.show(handler, body, "DELETED")
    cache = watches.cache
    object_caches = (cache.ray_jobs, cache.pods, cache.preflights, cache.workloads)
    assert (cache.jobs, cache.homes) == ({}, {})
    assert [objects._views for objects in object_caches] == [{}] * 4


@pytest.mark.parametrize("labels", [{}, {JOB: "other", JOB_UID: "uid-of-other"}, {JOB: "small", JOB_UID: "x"}])
def test_an_object_that_leaves_its_job_is_forgotten_at_once(labels: dict[str, str]) -> None:
    """Its deletion, which no longer names the job, was once noticed only at the next resync."""
    watches = Watches()
    watches.show("pods-changed", a_child("pod"))
    changed = a_child("pod")
    changed["metadata"]["labels"] = labels
    assert watches.show("pods-changed", changed)[0] == ("soon", KEY)
    assert watches.cache.pods.by_owner(Owner("team-a", "uid-of-small")) == ()
    watches.show("pods-changed", changed, "DELETED")
    assert watches.cache.pods.entries() == []
