"""Create the dependents of a job for its check, and ensure that they exist when an attempt begins."""

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from promptintern_api import PromptInternJob
from promptintern_api.kind import KIND

from promptintern_operator.cache import Cache, Owner
from promptintern_operator.kube import CONFIG_MAPS, Kube, RequestFailed
from promptintern_operator.manifests.config import ResolvedJob, config_map, config_map_name
from promptintern_operator.manifests.identity import role, role_binding, service_account
from promptintern_operator.manifests.meta import Manifest
from promptintern_operator.manifests.network import network_policy
from promptintern_operator.plan.denials import EARLIER_JOB, NAME_TAKEN
from promptintern_operator.settings import Settings
from promptintern_operator.views import JobView, controller_of

_HOLD = timedelta(minutes=5)
"""The time for which dependents that were created for a check are assumed to still exist."""
T = TypeVar("T")
_log = structlog.get_logger("promptintern.operator")


class Dependents:
    """The part of the operator that creates and updates the dependents of jobs.

    The dependents of a job are its ServiceAccount, Role, RoleBinding, ConfigMap and NetworkPolicy.
    """

    def __init__(self, kube: Kube, cache: Cache, settings: Settings) -> None:
        self._kube = kube
        self._cache = cache
        self._settings = settings

    async def prepare(self, job: ResolvedJob, *, written: asyncio.Future[JobView | None]) -> bool:
        """Create or update the dependents that a check needs, and start to create the Role and the RoleBinding.

        Only a head pod needs the Role and the RoleBinding, so the check does not wait for them. Before the API server
        creates either of them, it waits for etcd for a tenth of a second or more.

        Args:
            job: The job to check.
            written: The version of the job once its status is written, or None if the job has changed meanwhile.
                Existing objects are changed only after that. If the write fails, the caller handles the error.

        Returns:
            Whether all dependents of the check exist and are up to date.
        """
        account, *others = manifests = self._pod_manifests(job)
        new_account = await self._kube.create(account)
        if new_account is None:  # somebody else's account must not get the job's rights
            check_owner(await self._kube.read(account), job)
        self._cache.track_grant(
            _owner(job), asyncio.create_task(self._grant(job), name=f"rights of {job.metadata.name}")
        )
        created = [new_account, *await gather_all(*map(self._kube.create, others))]
        try:
            if not await written:
                return False
        except RequestFailed:
            return False
        existing = [manifest for manifest, new in zip(manifests, created, strict=True) if new is None]
        await gather_all(self._delete_outdated_config_map(job), *(self._update(manifest, job) for manifest in existing))
        return True

    async def ensure(self, job: ResolvedJob) -> None:
        """Ensure that all dependents of an attempt exist; dependents created for a recent check are assumed to exist.

        Of the existing objects, only the NetworkPolicy is changed, because it depends on the settings as well.
        """
        grant = self._cache.grants.pop(_owner(job), None)
        is_granted = grant is not None and await grant
        checked = job.status.config_map if job.status else None
        is_recent = _is_being_checked(job, since=datetime.now(UTC) - _HOLD) and checked == config_map_name(job)
        if is_granted and is_recent:
            return
        await self._delete_outdated_config_map(job)

        account, *others = self._pod_manifests(job)
        await self._ensure(account, job)  # somebody else's account must not get the job's rights

        async def ensure_rights() -> None:
            for manifest in _rights_manifests(job):
                await self._ensure(manifest, job)

        await gather_all(ensure_rights(), *(self._ensure(manifest, job) for manifest in others))

    def _pod_manifests(self, job: ResolvedJob) -> list[Manifest]:
        """Return the ServiceAccount and what else a pod needs."""
        return [service_account(job), config_map(job), network_policy(job, self._settings)]

    async def _grant(self, job: PromptInternJob) -> bool:
        """Create the Role and the RoleBinding, which are the same for every spec, and return whether this succeeded.

        After a failure, the start of the attempt tries again, and the job reports the reason.
        """
        try:
            for manifest in _rights_manifests(job):
                if await self._kube.create(manifest) is None:
                    await self._update(manifest, job)
        except RequestFailed as error:
            namespace, name = job.metadata.namespace, job.metadata.name
            _log.warning("cannot create the Role and RoleBinding", namespace=namespace, job=name, error=str(error))
            return False
        return True

    async def _delete_outdated_config_map(self, job: ResolvedJob) -> None:
        """Delete the ConfigMap that the status names if new pods read another one. No pod reads the former any more."""
        name, namespace = job.status.config_map if job.status else None, job.metadata.namespace
        if name in (None, config_map_name(job)):
            return
        try:
            body = await self._kube.read({"kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}})
            check_owner(body, job)
            await self._kube.delete(CONFIG_MAPS, namespace, name, uid=body["metadata"]["uid"])
        except RequestFailed as error:  # it is deleted together with the job at the latest
            if error.status != 404:
                _log.warning("cannot delete the outdated ConfigMap", name=name, error=str(error))

    async def _update(self, manifest: Manifest, job: PromptInternJob) -> None:
        body = await self._kube.read(manifest)
        _check_existing(body, manifest, job)
        if manifest.get("immutable"):
            return
        await self._kube.apply(manifest, uid=body["metadata"]["uid"])
        # Server-side apply keeps annotations that it did not write, so remove those that the spec no longer names.
        await self._kube.remove_annotations(body, keep=manifest["metadata"].get("annotations", {}))

    async def _ensure(self, manifest: Manifest, job: PromptInternJob) -> None:
        try:
            body = await self._kube.read(manifest)
        except RequestFailed as error:
            if error.status != 404:
                raise
            body = await self._kube.create(manifest) or await self._kube.read(manifest)
        _check_existing(body, manifest, job)
        if manifest["kind"] == "NetworkPolicy" and body["spec"] != manifest["spec"]:
            await self._kube.apply(manifest, uid=body["metadata"]["uid"])


def check_owner(body: Mapping[str, Any], job: PromptInternJob) -> None:
    """Check that ``job`` controls the object; an object of another owner must be neither used nor changed.

    Raises:
        RequestFailed: if ``job`` does not control the object, with a reason that the job can report.
    """
    meta = body["metadata"]
    controller = controller_of(meta)
    if controller.get("uid") == job.metadata.uid:
        return
    what = f"{body['kind']} {meta['name']}"
    if (controller.get("kind"), controller.get("name")) == (KIND, job.metadata.name):
        message = f"{what} of an earlier job of this name is still being deleted"
        if body["kind"] == "RayJob":
            message += "; KubeRay must be running to finish this"
        raise RequestFailed(message, status=409, reason=EARLIER_JOB, server_message=message)
    message = f"{what} already exists and does not belong to this job; delete it, or give the job another name"
    raise RequestFailed(message, status=409, reason=NAME_TAKEN, server_message=message)


def _check_existing(body: Mapping[str, Any], manifest: Manifest, job: PromptInternJob) -> None:
    """Check that ``job`` controls an existing object, and that an immutable one has the content of ``manifest``.

    Raises:
        RequestFailed: if somebody else wrote the object, with a reason that the job can report.
    """
    check_owner(body, job)
    if manifest.get("immutable") and (body.get("data") != manifest["data"] or body.get("immutable") is not True):
        message = f"{manifest['kind']} {manifest['metadata']['name']} was not written by the operator; delete it"
        raise RequestFailed(message, status=409, reason=NAME_TAKEN, server_message=message)


async def gather_all(*steps: Awaitable[T]) -> list[T]:
    """Run all steps concurrently, wait until all have ended, and return their results or raise the first exception."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]  # no result is an exception


def _rights_manifests(job: PromptInternJob) -> list[Manifest]:
    """Return the Role, then the RoleBinding; the API server accepts a RoleBinding only if its Role exists."""
    return [role(job), role_binding(job)]


def _is_being_checked(job: PromptInternJob, *, since: datetime) -> bool:
    """Return whether ``job`` is being checked and the check began after ``since``."""
    conditions = job.status.conditions if job.status else []
    return any(c.type == "Accepted" and c.reason == "Checking" and c.last_transition_time > since for c in conditions)


def _owner(job: PromptInternJob) -> Owner:
    return Owner(job.metadata.namespace, job.metadata.uid or "")
