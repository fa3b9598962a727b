"""What the watches do to the store and the queue."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from promptintern_operator.handlers import registry_of
from promptintern_operator.labels import JOB, JOB_UID
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.store import Owner, Store

KEY = Key("team-a", "small")


class Watches:
    """What Kopf would do with the handlers: no API server, and a queue that only notes what it is asked for."""

    def __init__(self) -> None:
        self.store, self.added = Store(), list[tuple[str, Key]]()
        queue = Workqueue()
        queue.add, queue.add_soon = self._add, self._add_soon  # type: ignore[method-assign]
        handlers = registry_of(self.store, queue)._watching.get_all_handlers()
        self._handlers: dict[str, Any] = {str(handler.id).split(".")[-1]: handler.fn for handler in handlers}

    async def _add(self, key: Key) -> None:
        self.added.append(("at once", key))

    def _add_soon(self, key: Key) -> None:
        self.added.append(("soon", key))

    def show(self, handler: str, body: Mapping[str, Any], what: str = "MODIFIED") -> list[tuple[str, Key]]:
        """One change; what the queue was asked for."""
        self.added = []
        asyncio.run(self._handlers[handler](event={"type": what, "object": body}, body=body))
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


def test_a_job_is_looked_at_at_once_and_what_it_wrote_itself_is_no_news() -> None:
    watches = Watches()
    assert watches.show("job_seen", a_job()) == [("at once", KEY)]
    assert "managedFields" not in watches.store.jobs[KEY].body["metadata"]
    assert watches.show("job_seen", a_job()) == []
    assert watches.show("job_seen", a_job(version=2)) == [("at once", KEY)]
    assert watches.show("job_seen", a_job(version=2), "DELETED") == [("at once", KEY)]


@pytest.mark.parametrize(
    ("handler", "when"), [("jobs-seen", "at once"), ("rayjobs-seen", "soon"), ("pods-seen", "soon")]
)
def test_a_child_is_news_if_a_plan_would_see_it(handler: str, when: str) -> None:
    watches = Watches()
    assert watches.show(handler, a_child("x")) == [(when, KEY)]
    assert watches.show(handler, a_child("x", spec={"nobody": "looks"})) == []
    gone = a_child("x")
    gone["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:06Z"
    assert watches.show(handler, gone) == [(when, KEY)]
    assert watches.show(handler, gone, "DELETED") == [(when, KEY)]


@pytest.mark.parametrize("job_first", [True, False])
def test_nothing_is_kept_of_what_is_gone(job_first: bool) -> None:
    watches, names = Watches(), [f"job-{n}" for n in range(5)]
    children = ("rayjobs-seen", "pods-seen", "jobs-seen")
    seen = [("job_seen", a_job(name)) for name in names]
    seen += [(kind, a_child(f"{kind} of {name}", name)) for name in names for kind in children]
    seen += [("workload_seen", a_workload(f"quota of {name}", f"rayjobs-seen of {name}")) for name in names]
    for handler, body in seen:
        watches.show(handler, body, "ADDED")
    assert watches.store.observed(Owner("team-a", "uid-of-job-0")).workloads
    for handler, body in seen if job_first else reversed(seen):
        watches.show(handler, body, "DELETED")
    store = watches.store
    shelves = (store.ray_jobs, store.pods, store.preflights, store.workloads)
    assert (store.jobs, store.ray_job_owners) == ({}, {})
    assert [shelf._views for shelf in shelves] == [{}] * 4
