"""Remove deleted objects from the cache if no watch reported their deletion, as after an interruption of a watch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from promptintern_api.contract import OPERATOR_SELECTOR

from promptintern_operator.cache import Cache, ObjectCache, Owner
from promptintern_operator.kube import (
    JOBS,
    KUEUE,
    PODS,
    PREFLIGHTS,
    RAY_JOBS,
    WORKLOADS,
    Kube,
    RequestFailed,
    Resource,
)
from promptintern_operator.queue import Key


async def resync(kube: Kube, cache: Cache, namespaces: Sequence[str]) -> set[Key]:
    """Remove from ``cache`` the objects that the API server no longer lists, and return the jobs that they belonged to.

    After an interruption of a watch, Kopf lists only the objects that still exist.

    Raises:
        RequestFailed: if a kind cannot be listed; objects that have already been removed stay removed.
    """
    changed: set[Key] = set()
    cached_jobs = {job.uid: key for key, job in cache.jobs.items()}
    listing = await _list(kube, JOBS, namespaces, selector="")
    for uid, key in cached_jobs.items():
        if listing.lacks(key.namespace, uid) and cache.jobs.get(key) is not None and cache.jobs[key].uid == uid:
            cache.remove_job(key)
            changed.add(key)
    workloads = await kube.preferred(KUEUE, WORKLOADS) if cache.workloads.entries() else None
    kinds: list[tuple[Resource | None, ObjectCache[Any], str]] = [
        (workloads, cache.workloads, ""),  # Kueue creates them without our labels
        (RAY_JOBS, cache.ray_jobs, OPERATOR_SELECTOR),
        (PODS, cache.pods, OPERATOR_SELECTOR),
        (PREFLIGHTS, cache.preflights, OPERATOR_SELECTOR),
    ]
    for resource, objects, selector in kinds:
        before = objects.entries()  # objects that are added during the listing are kept
        if not before:
            continue
        listing = _Listing()
        try:
            if resource is not None:
                listing = await _list(kube, resource, namespaces, selector=selector)
        except RequestFailed as error:
            if error.status != 404:
                raise
        for owner, uid in before:
            if listing.lacks(owner.namespace, uid):
                objects.remove(owner, uid)
                home = cache.homes.pop(Owner(owner.namespace, uid), None) or cache.homes.get(owner)
                if home is not None:
                    changed.add(home.key)
    return changed


@dataclass
class _Listing:
    """The uids of all objects of a kind, and the namespaces that could not be listed."""

    uids: set[str] = field(default_factory=set)
    forbidden: set[str] = field(default_factory=set)

    def lacks(self, namespace: str, uid: str) -> bool:
        """Return whether the object ``uid`` in ``namespace`` no longer exists."""
        return uid not in self.uids and namespace not in self.forbidden


async def _list(kube: Kube, resource: Resource, namespaces: Sequence[str], *, selector: str) -> _Listing:
    if not namespaces:
        return _Listing(await kube.list_uids(resource, None, selector=selector))
    listing = _Listing()
    for namespace in namespaces:
        try:
            listing.uids |= await kube.list_uids(resource, namespace, selector=selector)
        except RequestFailed as error:
            if error.status != 403:  # 403: the namespace is gone together with our rights; go on with the others
                raise
            listing.forbidden.add(namespace)
    return listing
