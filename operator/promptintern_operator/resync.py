"""What a watch did not tell: after an interruption Kopf lists what is there, and says nothing of what is gone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from promptintern_operator.kube import JOBS, PODS, PREFLIGHTS, RAY_JOBS, WORKLOADS, Kube, RequestFailed, Resource
from promptintern_operator.labels import SELECTOR
from promptintern_operator.queue import Key
from promptintern_operator.store import Owner, Shelf, Store


async def resync(kube: Kube, store: Store, namespaces: Sequence[str]) -> set[Key]:
    """Drop from ``store`` what the API server does not list; returns the jobs that lost something.

    Raises:
        RequestFailed: if a kind cannot be listed; what was dropped until then stays dropped.
    """
    changed: set[Key] = set()
    known_jobs = {job.uid: key for key, job in store.jobs.items()}
    there = await _list(kube, JOBS, namespaces, selector="")
    for uid, key in known_jobs.items():
        if there.lacks(key.namespace, uid) and store.jobs.get(key) is not None and store.jobs[key].uid == uid:
            store.drop_job(key)
            changed.add(key)
    kinds: list[tuple[Resource, Shelf[Any], str]] = [
        (WORKLOADS, store.workloads, ""),  # Kueue makes them, and puts none of our labels on them
        (RAY_JOBS, store.ray_jobs, SELECTOR),
        (PODS, store.pods, SELECTOR),
        (PREFLIGHTS, store.preflights, SELECTOR),
    ]
    keys = {job.uid: key for key, job in store.jobs.items()}
    for resource, shelf, selector in kinds:
        before = shelf.contents()  # what is added while the list is made stays
        if not before:
            continue
        try:
            there = await _list(kube, resource, namespaces, selector=selector)
        except RequestFailed as error:
            if error.status != 404:
                raise
            there = _Listing()
        for owner, uid in before:
            if there.lacks(owner.namespace, uid):
                shelf.drop(owner, uid)
                job = keys.get(owner.uid) or store.ray_job_owners.get(owner)
                store.ray_job_owners.pop(Owner(owner.namespace, uid), None)
                if job is not None:
                    changed.add(job)
    return changed


@dataclass
class _Listing:
    """What there is: the uids of all objects, and the namespaces where it is not known."""

    uids: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def lacks(self, namespace: str, uid: str) -> bool:
        """Whether an object is gone."""
        return uid not in self.uids and namespace not in self.refused


async def _list(kube: Kube, resource: Resource, namespaces: Sequence[str], *, selector: str) -> _Listing:
    if not namespaces:
        return _Listing(await kube.uids(resource, None, selector=selector))
    found = _Listing()
    for namespace in namespaces:
        try:
            found.uids |= await kube.uids(resource, namespace, selector=selector)
        except RequestFailed as error:
            if error.status != 403:  # it is gone, and our rights with it; the others are not
                raise
            found.refused.add(namespace)
    return found
