"""Kopf's handlers, which store each change in the cache and add its job to the workqueue. Kopf writes nothing.

The objects that Kopf delivers are already reduced to their views (see ``intake.py``).
"""

from collections.abc import Mapping
from typing import Any

import kopf
import msgspec
from promptintern_api.contract import OPERATOR_SELECTOR
from promptintern_api.kind import GROUP, PLURAL, VERSION

from promptintern_operator.cache import Cache, Home, ObjectCache, Owner, key_of, owner_of
from promptintern_operator.intake import KINDS
from promptintern_operator.kube import KUEUE, WORKLOADS
from promptintern_operator.parsing import PAGE
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.views import JobView, ray_job_uid_of


def build_registry(cache: Cache, queue: Workqueue) -> kopf.OperatorRegistry:
    """Return a registry of handlers that update ``cache`` and add jobs to ``queue``."""
    registry = kopf.OperatorRegistry()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def job_changed(event: Mapping[str, Any], body: kopf.Body, **_: Any) -> None:
        meta = body["metadata"]
        key = Key(meta["namespace"], meta["name"])
        if event["type"] == "DELETED":
            if (cached := cache.jobs.get(key)) is not None and cached.uid == meta["uid"]:
                cache.remove_job(key)
        elif (cached := cache.jobs.get(key)) is not None and cached.version == meta["resourceVersion"]:
            return  # our own write, whose response arrived before this event
        else:
            cache.jobs[key] = msgspec.convert(event["object"]["view"], JobView)
        await queue.add(key)

    def watch_children(resource: tuple[str, ...], objects: ObjectCache[Any], *, in_bursts: bool) -> None:
        view = KINDS[resource[-1]].view

        @kopf.on.event(*resource, registry=registry, id=f"{resource[-1]}-changed")
        async def child_changed(event: Mapping[str, Any], **_: Any) -> None:
            meta, is_deleted = event["object"]["metadata"], event["type"] == "DELETED"
            this = Owner(meta["namespace"], meta["uid"])
            owner, key = owner_of(meta, controlled=resource[-1] != "pods"), key_of(meta)
            home = Home(owner, key) if owner is not None and key is not None else None
            before = cache.homes.pop(this, home)
            if before is not None and (is_deleted or before != home):
                objects.remove(before.owner, this.uid)
                await add(before.key)
            if home is None or is_deleted:
                return
            cache.homes[this] = home
            # Nothing is to be done unless a field that a plan reads has changed.
            if objects.put(home.owner, this.uid, msgspec.convert(event["object"]["view"], view)):
                await add(home.key)

        async def add(key: Key) -> None:
            if in_bursts:
                queue.add_batched(key)
            else:
                await queue.add(key)

    # The start and the end of a cluster cause bursts of changes to its RayJob and pods, so these changes are batched.
    # Changes to a preflight are not batched, because the job waits for the end of its check.
    watch_children(("ray.io", "v1", "rayjobs"), cache.ray_jobs, in_bursts=True)
    watch_children(("v1", "pods"), cache.pods, in_bursts=True)
    watch_children(("batch", "v1", "jobs"), cache.preflights, in_bursts=False)

    @kopf.on.event(KUEUE, WORKLOADS, registry=registry)  # in the version that the API server prefers
    async def workload_changed(event: Mapping[str, Any], **_: Any) -> None:
        meta = event["object"]["metadata"]
        ray_job_uid = ray_job_uid_of(meta)
        if ray_job_uid is None:
            return
        owner = Owner(meta["namespace"], ray_job_uid)
        if event["type"] == "DELETED":
            cache.workloads.remove(owner, meta["uid"])
        else:
            cache.workloads.put(owner, meta["uid"], msgspec.convert(event["object"]["view"], KINDS[WORKLOADS].view))
        if (home := cache.homes.get(owner)) is not None:
            await queue.add(home.key)

    return registry


def kopf_settings(*, limited: bool) -> kopf.OperatorSettings:
    """Return settings that make Kopf watch only the operator's objects and write no Events, annotations or finalizers.

    Args:
        limited: Whether the operator watches only some namespaces and may not list namespaces.
    """
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = limited  # otherwise Kopf first tries for a minute to list namespaces
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.chunk_size = PAGE
    settings.watching.reconnect_backoff = 1.0
    settings.queueing.worker_limit = 64
    # An idle worker stays bound to its object for this long. With 5 s, 64 workers would handle 13 objects per second.
    settings.queueing.idle_timeout = 0.1
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.progress_storage = _NoProgress()
    settings.networking.request_timeout = 30
    settings.process.ultimate_exiting_timeout = None  # the process may continue without Kopf or restart it
    for resource in ("rayjobs.ray.io", "pods", "jobs.batch"):
        settings.watching.label_selectors[resource] = OPERATOR_SELECTOR
    return settings


class _NoDiffs(kopf.DiffBaseStorage):
    """A diff storage that stores nothing. By default, Kopf copies every object three times for handlers that are not
    used here.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """A progress storage that stores nothing, because no handler here has progress to store."""

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
