"""The operator's cache, which the watches fill with views of jobs and of the objects that belong to them."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from promptintern_api.contract import LABEL_JOB, LABEL_JOB_UID

from promptintern_operator.plan import Denial, KubeRay, Observed
from promptintern_operator.queue import Key
from promptintern_operator.views import JobView, PodView, PreflightView, RayJobView, WorkloadView, controller_of

Created = TypeVar("Created", RayJobView, PreflightView)
View = TypeVar("View", RayJobView, PodView, PreflightView, WorkloadView)


@dataclass(frozen=True)
class Owner:
    """The owner of a cached object. The uid alone is not enough, because tenants of other namespaces can copy it."""

    namespace: str
    uid: str


class Home(NamedTuple):
    """The job to which an object belongs."""

    owner: Owner
    key: Key


class ObjectCache(Generic[View]):
    """The views of all objects of one kind, by owner and by the uid of the object."""

    def __init__(self) -> None:
        self._views: defaultdict[Owner, dict[str, View]] = defaultdict(dict)

    def put(self, owner: Owner, uid: str, view: View) -> bool:
        """Store the newest view of an object, and return whether it differs from the previous view."""
        old = self._views[owner].get(uid)
        self._views[owner][uid] = view
        return view != old

    def put_if_absent(self, owner: Owner, uid: str, view: View) -> None:
        """Store the view of a new object, unless the watch has already delivered a view of the object."""
        self._views[owner].setdefault(uid, view)

    def update(self, owner: Owner, uid: str, **changes: Any) -> None:
        """Change fields of an object's view at once, without waiting for the watch to deliver the change."""
        view = self._views.get(owner, {}).get(uid)
        if view is not None:
            self._views[owner][uid] = replace(view, **changes)

    def remove(self, owner: Owner, uid: str) -> None:
        """Remove the view of an object that no longer exists."""
        views = self._views.get(owner)
        if views is not None:
            views.pop(uid, None)
            if not views:
                del self._views[owner]

    def entries(self) -> list[tuple[Owner, str]]:
        """Return the owner and the uid of every object."""
        return [(owner, uid) for owner, views in self._views.items() for uid in views]

    def by_owner(self, owner: Owner) -> tuple[View, ...]:
        """Return all views of ``owner``."""
        return tuple(self._views.get(owner, {}).values())


class Cache:
    """Everything that the operator has observed."""

    def __init__(self) -> None:
        self.jobs: dict[Key, JobView] = {}
        self.ray_jobs: ObjectCache[RayJobView] = ObjectCache()
        self.pods: ObjectCache[PodView] = ObjectCache()
        self.preflights: ObjectCache[PreflightView] = ObjectCache()
        self.workloads: ObjectCache[WorkloadView] = ObjectCache()
        """The Workloads of Kueue, by the RayJob that owns each of them."""
        self.homes: dict[Owner, Home] = {}
        """The job to which each RayJob, pod and preflight belongs, by the namespace and uid of the object. A tenant may
        change the labels that say so, and a Workload of Kueue names only its RayJob.
        """
        self.kuberay = KubeRay(usable=True)
        self.created: defaultdict[Owner, set[str]] = defaultdict(set)
        """The uids of the RayJobs and preflights of each job that this process created."""
        self.denials: dict[Owner, Denial] = {}
        """The newest denial of each job, kept until the denied action succeeds."""
        self.grants: dict[Owner, asyncio.Task[bool]] = {}
        """The tasks that create the Role and RoleBinding of jobs under check. Each returns whether it succeeded."""

    def remove_job(self, key: Key) -> None:
        """Remove a job that no longer exists, together with its denial, and cancel the creation of its Role and
        RoleBinding.
        """
        job = self.jobs.pop(key)
        owner = Owner(key.namespace, job.uid)
        self.created.pop(owner, None)
        self.denials.pop(owner, None)
        self.cancel_grant(owner)

    def add_created(self, home: Home, objects: ObjectCache[Created], uid: str, view: Created) -> None:
        """Store what this process has just created, so that it is not created again before the watch delivers it."""
        self.created[home.owner].add(uid)
        self.homes.setdefault(Owner(home.owner.namespace, uid), home)
        objects.put_if_absent(home.owner, uid, view)

    def track_grant(self, owner: Owner, task: asyncio.Task[bool]) -> None:
        """Store the task that creates the Role and RoleBinding of the job ``owner``, and cancel an earlier task."""
        self.cancel_grant(owner)
        self.grants[owner] = task

    def cancel_grant(self, owner: Owner) -> None:
        """Cancel the task that creates the Role and RoleBinding of the job ``owner``, if there is one."""
        if task := self.grants.pop(owner, None):
            task.cancel()

    def own_uids(self, owner: Owner, recorded: Collection[str]) -> set[str]:
        """Return the uids of the RayJobs and preflights of the job ``owner`` that the operator created.

        Anybody who may create RayJobs or Jobs can name the job as their controller. Therefore only those count that
        this process created, and those that an earlier process recorded in the job's status.

        Args:
            owner: The job.
            recorded: The uids of RayJobs and preflights in the status of the job.
        """
        return {*recorded, *self.created.get(owner, ())}

    def observed(self, owner: Owner, recorded: Collection[str]) -> Observed:
        """Return all objects that belong to the job ``owner``. The arguments are those of ``own_uids``."""
        own = self.own_uids(owner, recorded)
        ray_jobs, foreign_ray_jobs = _split(self.ray_jobs.by_owner(owner), own)
        preflights, foreign_preflights = _split(self.preflights.by_owner(owner), own)
        rays = [Owner(owner.namespace, ray_job.uid) for ray_job in ray_jobs]
        return Observed(
            ray_jobs=ray_jobs,
            pods=self.pods.by_owner(owner),
            preflights=preflights,
            workloads=tuple(workload for ray in rays for workload in self.workloads.by_owner(ray)),
            foreign=(*foreign_ray_jobs, *foreign_preflights),
            kuberay=self.kuberay,
            denial=self.denials.get(owner),
        )

    def awaits_first_attempt(self, key: Key) -> bool:
        """Return whether there is a job at ``key`` that has not had an attempt yet."""
        job = self.jobs.get(key)
        return job is not None and not job.attempted

    def job_counts(self) -> Counter[tuple[str, str]]:
        """Count the jobs by namespace and phase."""
        return Counter((key.namespace, job.phase) for key, job in self.jobs.items())


def _split(views: Iterable[Created], own: Collection[str]) -> tuple[tuple[Created, ...], tuple[Created, ...]]:
    """Return the views whose uid is in ``own``, and the other views."""
    found = tuple(views)
    return tuple(v for v in found if v.uid in own), tuple(v for v in found if v.uid not in own)


def key_of(meta: Mapping[str, Any]) -> Key | None:
    """Return the key of the job that the labels of an object name, or None if they name no job."""
    name = (meta.get("labels") or {}).get(LABEL_JOB)
    return Key(meta["namespace"], name) if name else None


def owner_of(meta: Mapping[str, Any], *, controlled: bool) -> Owner | None:
    """Return the identity of the job to which an object belongs, or None if it belongs to no job.

    Args:
        meta: The metadata of the object.
        controlled: Whether the job must also be the controller of the object, as for every kind that the operator
            creates.
    """
    uid = (meta.get("labels") or {}).get(LABEL_JOB_UID)
    if uid is None or (controlled and controller_of(meta).get("uid") != uid):
        return None
    return Owner(meta["namespace"], uid)
