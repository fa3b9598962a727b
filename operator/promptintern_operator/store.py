"""What the watches have shown so far: views by the uid of the job they belong to."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from promptintern_operator.labels import JOB
from promptintern_operator.plan import KubeRay, Observed
from promptintern_operator.queue import Key
from promptintern_operator.views import PodView, PreflightView, RayJobView, WorkloadView

View = TypeVar("View", RayJobView, PodView, PreflightView, WorkloadView)


class Shelf(Generic[View]):
    """Views of one kind: by owner, then by the object's own uid."""

    def __init__(self) -> None:
        self._views: defaultdict[str, dict[str, View]] = defaultdict(dict)

    def put(self, owner: str, uid: str, view: View) -> None:
        """Keep the newest view of an object."""
        self._views[owner][uid] = view

    def drop(self, owner: str, uid: str) -> None:
        """The object is gone."""
        views = self._views.get(owner)
        if views is not None:
            views.pop(uid, None)
            if not views:
                del self._views[owner]

    def of(self, owner: str) -> tuple[View, ...]:
        """All views of ``owner``."""
        return tuple(self._views.get(owner, {}).values())


@dataclass(frozen=True, kw_only=True)
class JobBody:
    """A PromptInternJob as it was last seen."""

    uid: str
    version: str
    generation: int
    body: Mapping[str, Any]


class Store:
    """Everything that was seen."""

    def __init__(self) -> None:
        self.jobs: dict[Key, JobBody] = {}
        self.ray_jobs: Shelf[RayJobView] = Shelf()
        self.pods: Shelf[PodView] = Shelf()
        self.preflights: Shelf[PreflightView] = Shelf()
        self.workloads: Shelf[WorkloadView] = Shelf()
        """By the uid of the RayJob."""
        self.ray_job_owners: dict[str, Key] = {}
        """The job of a RayJob, by the RayJob's uid: Kueue's Workloads say no more than that."""
        self.kuberay = KubeRay(usable=True)

    def observed(self, uid: str) -> Observed:
        """All that belongs to the job with ``uid``."""
        ray_jobs = self.ray_jobs.of(uid)
        return Observed(
            ray_jobs=ray_jobs,
            pods=self.pods.of(uid),
            preflights=self.preflights.of(uid),
            workloads=tuple(w for ray_job in ray_jobs for w in self.workloads.of(ray_job.uid)),
            kuberay=self.kuberay,
        )

    def phases(self) -> Counter[str]:
        """How many jobs are in which phase."""
        return Counter(str((job.body.get("status") or {}).get("phase") or "Pending") for job in self.jobs.values())


def key_of(meta: Mapping[str, Any]) -> Key | None:
    """The job to which a child belongs, by its labels."""
    name = (meta.get("labels") or {}).get(JOB)
    return Key(meta["namespace"], name) if name else None
