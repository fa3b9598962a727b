"""What the watches have shown so far: views by the job they belong to."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from promptintern_operator.labels import JOB, JOB_UID
from promptintern_operator.plan import Denial, KubeRay, Observed
from promptintern_operator.queue import Key
from promptintern_operator.views import PodView, PreflightView, RayJobView, WorkloadView, controller_of

View = TypeVar("View", RayJobView, PodView, PreflightView, WorkloadView)


@dataclass(frozen=True)
class Owner:
    """Whom a view belongs to. A label alone could be set in any namespace, by another tenant."""

    namespace: str
    uid: str


class ObjectCache(Generic[View]):
    """Views of one kind: by owner, then by the object's own uid."""

    def __init__(self) -> None:
        self._views: defaultdict[Owner, dict[str, View]] = defaultdict(dict)

    def put(self, owner: Owner, uid: str, view: View) -> bool:
        """Keep the newest view of an object; whether it differs from what was known."""
        old = self._views[owner].get(uid)
        self._views[owner][uid] = view
        return view != old

    def put_if_absent(self, owner: Owner, uid: str, view: View) -> None:
        """Keep the view of an object that was just made, unless its watch was quicker and has shown a newer one."""
        self._views[owner].setdefault(uid, view)

    def update(self, owner: Owner, uid: str, **changes: Any) -> None:
        """What became of an object that is still there, before its watch tells."""
        view = self._views.get(owner, {}).get(uid)
        if view is not None:
            self._views[owner][uid] = replace(view, **changes)

    def remove(self, owner: Owner, uid: str) -> None:
        """The object is gone."""
        views = self._views.get(owner)
        if views is not None:
            views.pop(uid, None)
            if not views:
                del self._views[owner]

    def entries(self) -> list[tuple[Owner, str]]:
        """Owner and uid of every object."""
        return [(owner, uid) for owner, views in self._views.items() for uid in views]

    def by_owner(self, owner: Owner) -> tuple[View, ...]:
        """All views of ``owner``."""
        return tuple(self._views.get(owner, {}).values())


@dataclass(frozen=True, kw_only=True)
class CachedJob:
    """A PromptInternJob as it was last seen."""

    uid: str
    version: str
    generation: int
    body: Mapping[str, Any]

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Without what only the API server reads, which is half of it."""
        meta = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
        return cls(
            uid=meta["uid"],
            version=meta["resourceVersion"],
            generation=meta.get("generation", 0),
            body={**body, "metadata": meta},
        )


class Cache:
    """Everything that was seen."""

    def __init__(self) -> None:
        self.jobs: dict[Key, CachedJob] = {}
        self.ray_jobs: ObjectCache[RayJobView] = ObjectCache()
        self.pods: ObjectCache[PodView] = ObjectCache()
        self.preflights: ObjectCache[PreflightView] = ObjectCache()
        self.workloads: ObjectCache[WorkloadView] = ObjectCache()
        """By their RayJob."""
        self.ray_job_owners: dict[Owner, Key] = {}
        """The job of a RayJob: Kueue's Workloads name the RayJob only."""
        self.kuberay = KubeRay(usable=True)
        self.denials: dict[Owner, Denial] = {}
        """The action of a job that could not be carried out when it was last tried."""
        self.grants: dict[Owner, asyncio.Task[bool]] = {}
        """Of a job that is being checked: the task that makes its Role and RoleBinding, and whether it did."""

    def remove_job(self, key: Key) -> None:
        """The job is gone."""
        job = self.jobs.pop(key)
        owner = Owner(key.namespace, job.uid)
        self.denials.pop(owner, None)
        self.cancel_grant(owner)

    def track_grant(self, owner: Owner, task: asyncio.Task[bool]) -> None:
        """``task`` makes the rights of the job ``owner`` from now on."""
        self.cancel_grant(owner)
        self.grants[owner] = task

    def cancel_grant(self, owner: Owner) -> None:
        """End the task that makes the rights of the job ``owner``, if there is one."""
        if task := self.grants.pop(owner, None):
            task.cancel()

    def observed(self, owner: Owner) -> Observed:
        """All that belongs to the job ``owner``."""
        ray_jobs = self.ray_jobs.by_owner(owner)
        rays = [Owner(owner.namespace, ray_job.uid) for ray_job in ray_jobs]
        return Observed(
            ray_jobs=ray_jobs,
            pods=self.pods.by_owner(owner),
            preflights=self.preflights.by_owner(owner),
            workloads=tuple(workload for ray in rays for workload in self.workloads.by_owner(ray)),
            kuberay=self.kuberay,
            denial=self.denials.get(owner),
        )

    def awaits_first_attempt(self, key: Key) -> bool:
        """Whether somebody waits for the job at ``key`` to begin at all."""
        job = self.jobs.get(key)
        return job is not None and not (job.body.get("status") or {}).get("attempts")

    def phases(self) -> Counter[str]:
        """How many jobs are in which phase."""
        return Counter(str((job.body.get("status") or {}).get("phase") or "Pending") for job in self.jobs.values())


def key_of(meta: Mapping[str, Any]) -> Key | None:
    """The job to which a child belongs, by its labels."""
    name = (meta.get("labels") or {}).get(JOB)
    return Key(meta["namespace"], name) if name else None


def owner_of(meta: Mapping[str, Any], *, controlled: bool) -> Owner | None:
    """The job to which a child belongs, by its identity.

    Args:
        controlled: Whether the job itself makes such objects, so that one that it does not control is somebody else's.
    """
    uid = (meta.get("labels") or {}).get(JOB_UID)
    if uid is None or (controlled and controller_of(meta).get("uid") != uid):
        return None
    return Owner(meta["namespace"], uid)
