"""Wiring: what Kopf sees goes into the cache, and the job it belongs to into the queue. Kopf writes nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from promptintern_operator.cache import Cache, CachedJob, ObjectCache, Owner, key_of, owner_of
from promptintern_operator.labels import JOB, SELECTOR
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.views import pod_view, preflight_view, ray_job_view, workload_view

_OURS = {JOB: kopf.PRESENT}


def build_registry(cache: Cache, queue: Workqueue) -> kopf.OperatorRegistry:
    """Handlers that keep ``cache`` and feed ``queue``."""
    registry = kopf.OperatorRegistry()

    @kopf.on.event("promptintern.dev", "v1alpha1", "promptinternjobs", registry=registry)
    async def job_changed(event: Mapping[str, Any], body: kopf.Body, **_: Any) -> None:
        meta = body["metadata"]
        key = Key(meta["namespace"], meta["name"])
        if event["type"] == "DELETED":
            if (cached := cache.jobs.get(key)) is not None and cached.uid == meta["uid"]:
                cache.remove_job(key)
        elif (cached := cache.jobs.get(key)) is not None and cached.version == meta["resourceVersion"]:
            return  # our own write, whose answer was quicker
        else:
            cache.jobs[key] = CachedJob.from_body(event["object"])
        await queue.add(key)

    def watch_children(
        resource: tuple[str, ...], objects: ObjectCache[Any], view: Callable[[Any], Any], *, in_bursts: bool
    ) -> None:
        @kopf.on.event(*resource, labels=_OURS, registry=registry, id=f"{resource[-1]}-changed")
        async def child_changed(event: Mapping[str, Any], **_: Any) -> None:
            body = event["object"]
            meta = body["metadata"]
            owner, key = owner_of(meta, controlled=resource[-1] != "pods"), key_of(meta)
            if owner is None or key is None:
                return
            if event["type"] == "DELETED":
                objects.remove(owner, meta["uid"])
                cache.ray_job_owners.pop(Owner(meta["namespace"], meta["uid"]), None)
            else:
                if resource[-1] == "rayjobs":
                    cache.ray_job_owners[Owner(meta["namespace"], meta["uid"])] = key
                if not objects.put(owner, meta["uid"], view(body)):
                    return  # nothing that a plan would look at
            if in_bursts:
                queue.add_batched(key)
            else:
                await queue.add(key)

    # A cluster comes and goes as a burst of changes to its RayJob and its pods; a job waits for the end of its check.
    watch_children(("ray.io", "v1", "rayjobs"), cache.ray_jobs, ray_job_view, in_bursts=True)
    watch_children(("v1", "pods"), cache.pods, pod_view, in_bursts=True)
    watch_children(("batch", "v1", "jobs"), cache.preflights, preflight_view, in_bursts=False)

    @kopf.on.event("kueue.x-k8s.io", "v1beta1", "workloads", registry=registry)
    async def workload_changed(event: Mapping[str, Any], **_: Any) -> None:
        view, meta = workload_view(event["object"]), event["object"]["metadata"]
        if view.ray_job_uid is None:
            return
        owner = Owner(meta["namespace"], view.ray_job_uid)
        if event["type"] == "DELETED":
            cache.workloads.remove(owner, meta["uid"])
        else:
            cache.workloads.put(owner, meta["uid"], view)
        if (key := cache.ray_job_owners.get(owner)) is not None:
            await queue.add(key)

    return registry


def kopf_settings(*, limited: bool) -> kopf.OperatorSettings:
    """Watches of what is ours only; no Events, no annotations, no finalizers by Kopf.

    Args:
        limited: Whether to watch some namespaces only, and to list none.
    """
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = limited  # before it works, Kopf would try for a minute to list namespaces
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.chunk_size = 500
    settings.queueing.worker_limit = 64
    settings.queueing.idle_timeout = 0.1  # a worker is bound to an object until then: 64 in 5 s would be 13 a second
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.progress_storage = _NoProgress()
    settings.networking.request_timeout = 30
    settings.process.ultimate_exiting_timeout = None  # the process may go on without Kopf, or with another
    for resource in ("rayjobs.ray.io", "pods", "jobs.batch"):
        settings.watching.label_selectors[resource] = SELECTOR
    return settings


class _NoDiffs(kopf.DiffBaseStorage):
    """Kopf copies every object three times to tell what changed in it, for handlers that are not used here."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Nor is there progress of such handlers."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence
