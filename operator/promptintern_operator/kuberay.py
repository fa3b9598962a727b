"""Detect whether KubeRay is installed and new enough."""

import asyncio

import structlog

from promptintern_operator.cache import Cache
from promptintern_operator.kube import CRDS, KUEUE, RAY_JOBS, WORKLOADS, Kube, RequestFailed
from promptintern_operator.plan import KubeRay
from promptintern_operator.queue import Workqueue
from promptintern_operator.watch_health import forget, is_watched

_SECONDS = 15.0
_log = structlog.get_logger("promptintern.operator")

MISSING = KubeRay(
    usable=False,
    reason="KubeRayMissing",
    message="KubeRay is not installed in this cluster; the job starts as soon as KubeRay 1.5 or newer is installed",
)
TOO_OLD = KubeRay(
    usable=False,
    reason="KubeRayTooOld",
    message="the installed KubeRay cannot protect a Ray cluster with a token; the job starts as soon as KubeRay is 1.5 "
    "or newer, including its CustomResourceDefinitions, which helm upgrade leaves as they are",
)


async def find_kuberay(kube: Kube) -> KubeRay:
    """Return the state of KubeRay in this cluster, according to the CustomResourceDefinition of RayJobs.

    Raises:
        RequestFailed: if the API server does not answer.
    """
    try:
        definition = await kube.get(CRDS, None, "rayjobs.ray.io")
    except RequestFailed as error:
        if error.status == 403:
            # An operator limited to namespaces cannot read CRDs. Creating a RayJob will reveal an old KubeRay.
            return KubeRay(usable=True) if await kube.serves(RAY_JOBS) else MISSING
        raise
    if definition is None:
        return MISSING
    versions = {version["name"]: version for version in definition["spec"]["versions"] if version.get("served")}
    if "v1" not in versions:
        return TOO_OLD
    spec = versions["v1"]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return KubeRay(usable=True) if "authOptions" in spec["rayClusterSpec"]["properties"] else TOO_OLD


async def watch_kuberay(kube: Kube, cache: Cache, queue: Workqueue, *, unwatched: asyncio.Event) -> None:
    """Keep ``cache.kuberay`` up to date forever, and requeue every job when the value changes.

    Args:
        kube: The client of the API server.
        cache: The cache to update.
        queue: The workqueue of jobs.
        unwatched: An event that is set when the API server serves RayJobs or Kueue's Workloads but Kopf does not watch
            them. Kopf looks for new kinds once after each change of a CRD, possibly before the API server announces the
            kind. If Kopf is limited to namespaces, it never looks for new kinds.
    """
    while True:
        try:
            kuberay = await find_kuberay(kube)
        except RequestFailed as error:
            _log.warning("cannot detect KubeRay", error=str(error))
        else:
            if kuberay != cache.kuberay:
                _log.info("KubeRay changed", usable=kuberay.usable, reason=kuberay.reason)
                cache.kuberay = kuberay
                for key in list(cache.jobs):
                    await queue.add(key)
        await asyncio.sleep(_SECONDS)
        try:
            ray_jobs = RAY_JOBS if await kube.serves(RAY_JOBS) else None
            workloads = await kube.preferred(KUEUE, WORKLOADS)
            for plural, resource in ((RAY_JOBS.plural, ray_jobs), (WORKLOADS, workloads)):
                forget(plural, except_for=resource.api_version if resource is not None else None)
                if resource is not None and not is_watched(plural):
                    unwatched.set()
        except RequestFailed as error:
            _log.warning("cannot detect KubeRay and Kueue", error=str(error))
