"""Reconcile a job: observe its objects, plan, write the status and execute the actions."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog
from promptintern_api import InvalidJob, PromptInternJob, parse_job
from promptintern_api.contract import LABEL_MANAGED_BY, OPERATOR
from promptintern_api.status import PromptInternJobStatus
from pydantic import ValidationError

from promptintern_operator.cache import Cache, Home, Owner
from promptintern_operator.dependents import Dependents, check_owner
from promptintern_operator.events import event_manifest
from promptintern_operator.job_metrics import JOB_METRICS
from promptintern_operator.kube import JOBS as JOB_RESOURCE
from promptintern_operator.kube import PREFLIGHTS, RAY_JOBS, Kube, RequestFailed, Resource
from promptintern_operator.manifests.config import ResolvedJob, config_map_name, refusals, resolve
from promptintern_operator.manifests.meta import Manifest
from promptintern_operator.manifests.preflight import preflight_job
from promptintern_operator.manifests.rayjob import ray_job
from promptintern_operator.metrics import RECONCILE_SECONDS, RECONCILES, START_SECONDS
from promptintern_operator.plan import (
    Action,
    DeleteJob,
    DeletePreflight,
    DeleteRayJob,
    EventRecord,
    Limits,
    Observed,
    Plan,
    StartAttempt,
    StartPreflight,
    plan,
    unreadable,
)
from promptintern_operator.plan.denials import EARLIER_JOB, NAME_TAKEN, denial_for
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.settings import Settings
from promptintern_operator.views import JobView, RayJobView, preflight_view, ray_job_view

_log = structlog.get_logger("promptintern.operator")


class Reconciler:
    """A reconciler of jobs. It holds no state, so a new reconciler continues where another one stopped."""

    def __init__(self, kube: Kube, cache: Cache, queue: Workqueue, settings: Settings) -> None:
        self._kube = kube
        self._cache = cache
        self._queue = queue
        self._settings = settings
        self._dependents = Dependents(kube, cache, settings)
        self._limits = Limits(
            stuck=settings.stuck_seconds,
            queue=settings.queue_seconds,
            retry=settings.retry_seconds,
            retry_max=settings.retry_seconds_max,
            kuberay_namespace=settings.kuberay_namespace,
        )

    async def reconcile(self, key: Key) -> None:
        """Advance the job at ``key`` by one step.

        Raises:
            RequestFailed: if a request failed; the job must be requeued.
        """
        cached = self._cache.jobs.get(key)
        if cached is None or cached.deleting:
            self._queue.forget(key)
            return
        JOB_METRICS.begin(key.namespace)
        log = _log.bind(namespace=key.namespace, job=key.name)
        with RECONCILE_SECONDS.time():
            found = await self._read(key, cached)
            if found is None:
                self._queue.add_after(key, 2.0)  # by then, the watch has probably delivered the change
                return
            cached, body = found
            before = body.get("status") or {}
            try:
                job = resolve(_parsed(body, log), self._settings)
            except InvalidJob as error:
                # The API server accepted the job under the schema of another version; a user has to change the job.
                log.error("cannot parse the job", problems=str(error))
                RECONCILES.labels(result="unreadable").inc()
                await self._report_unreadable(key, cached, before, str(error), log)
                return
            now = datetime.now(UTC).replace(microsecond=0)
            observed = await self._observe(key, cached, job)
            result = plan(
                job,
                observed,
                generation=cached.generation,
                now=now,
                limits=self._limits,
                refusals=refusals(job),
                storage=job.spec.storage,
                config_map=lambda: config_map_name(job),
            )
            writing = asyncio.create_task(self._write_status(key, cached, before, result))
            try:
                for action in result.actions:
                    if not isinstance(action, StartPreflight) and not await writing:
                        break
                    if not await self._try_action(action, job, writing, log):
                        break
                    if action == StartAttempt(1):
                        accepted = datetime.fromisoformat(result.status["startTime"])
                        START_SECONDS.observe((datetime.now(UTC) - accepted).total_seconds())
            finally:
                # Events are recorded even if an action failed. They are recorded last, because nothing waits for them.
                written = await writing
                if written:
                    JOB_METRICS.count_changes(before, result, job)
                    await asyncio.gather(*(self._record(key, cached, event, log) for event in result.events))
            if not written:
                return
            if result.actions:
                # The cache already holds the effects of the actions, so no watch will requeue the job. The next
                # reconciliation also reports a denial, if there was one.
                self._queue.add_batched(key)
            if result.requeue_at is not None:
                self._queue.add_after(key, (result.requeue_at - now).total_seconds())
            RECONCILES.labels(result="done").inc()

    async def _read(self, key: Key, cached: JobView) -> tuple[JobView, dict[str, Any]] | None:
        """Return the newest view of a job and the whole job, or None if the job is gone or is being deleted."""
        body = cached.body()
        if body is not None:
            return cached, body
        found = await self._kube.get_job(key.namespace, key.name)
        if found is None or found[0].uid != cached.uid or found[0].deleting:
            return None
        return self._update_cache(key, cached, found[0]), found[1]

    def _update_cache(self, key: Key, cached: JobView, newer: JobView) -> JobView:
        """Replace ``cached`` by ``newer``, unless the watch has delivered another version; return ``newer``."""
        if self._cache.jobs.get(key) is cached:
            self._cache.jobs[key] = newer
        return newer

    async def _report_unreadable(
        self, key: Key, cached: JobView, before: Mapping[str, Any], problems: str, log: Any
    ) -> None:
        try:
            status = PromptInternJobStatus.model_validate(_operator_part(before))
        except ValidationError:
            return  # the status of the job cannot be parsed either
        now = datetime.now(UTC).replace(microsecond=0)
        result = unreadable(status, problems, generation=cached.generation, now=now)
        if result is not None and await self._write_status(key, cached, before, result):
            await asyncio.gather(*(self._record(key, cached, event, log) for event in result.events))

    async def _observe(self, key: Key, cached: JobView, job: PromptInternJob) -> Observed:
        """Return the observed objects. Request a RayJob that the cache lacks, because the watch may lag behind."""
        owner = Owner(key.namespace, cached.uid)
        observed = self._cache.observed(owner, recorded_uids(job.status))
        attempts = job.status.attempts if job.status else []
        if attempts and attempts[-1].outcome is None:
            name = attempts[-1].ray_job_name
            foreign = [view for view in observed.foreign if isinstance(view, RayJobView)]
            if all(ray_job.name != name for ray_job in (*observed.ray_jobs, *foreign)):
                body = await self._kube.get(RAY_JOBS, key.namespace, name)
                if body is not None and self._is_own(body["metadata"]["uid"], job):
                    return replace(observed, ray_jobs=(*observed.ray_jobs, ray_job_view(body)))
        return observed

    def _is_own(self, uid: str, job: PromptInternJob) -> bool:
        """Return whether the operator created the RayJob or preflight ``uid`` of ``job``."""
        owner = Owner(job.metadata.namespace, job.metadata.uid or "")
        return uid in self._cache.own_uids(owner, recorded_uids(job.status))

    async def _write_status(self, key: Key, cached: JobView, before: Mapping[str, Any], result: Plan) -> JobView | None:
        """Write the status if it has changed. Return the version of the job that the plan's actions are based on, or
        None if the plan is outdated because the job has changed.

        Args:
            key: The key of the job.
            cached: The version of the job from which the plan was computed.
            before: The whole status of this version.
            result: The plan.
        """
        if is_same_status(_operator_part(before), result.status):
            return cached
        try:
            written = await self._kube.apply_job_status(
                key.namespace, key.name, uid=cached.uid, version=cached.version, status=result.status
            )
        except RequestFailed as error:
            if error.status not in (404, 409):
                raise
            # The watch will deliver a newer version. Requeue the job anyway, in case that version is lost.
            RECONCILES.labels(result="outdated").inc()
            self._queue.add_after(key, 2.0)
            return None
        return self._update_cache(key, cached, written)

    async def _record(self, key: Key, cached: JobView, event: EventRecord, log: Any) -> None:
        log.info("event", reason=event.reason, message=event.message)
        try:
            await self._kube.record_event(
                event_manifest(key, uid=cached.uid, record=event, reporter=self._settings.pod_name)
            )
        except RequestFailed as error:
            log.warning("cannot record an event", error=str(error))

    async def _try_action(
        self, action: Action, job: ResolvedJob, written: asyncio.Future[JobView | None], log: Any
    ) -> bool:
        """Execute ``action``; return False if the API server denied it for a reason that the job must report."""
        owner = Owner(job.metadata.namespace, job.metadata.uid or "")
        previous = self._cache.denials.get(owner)
        try:
            await self._execute(action, job, written, log)
        except RequestFailed as error:
            now = datetime.now(UTC).replace(microsecond=0)
            denial = denial_for(
                action, previous, status=error.status, reason=error.reason, message=error.server_message, now=now
            )
            if denial is None:
                raise
            log.warning("action denied", reason=denial.reason, error=str(error))
            RECONCILES.labels(result="denied").inc()
            JOB_METRICS.count_denial(owner.namespace, denial)
            self._cache.denials[owner] = denial
            return False
        if previous is not None and previous.action == action and await written:
            # The job must no longer report the denial.
            self._cache.denials.pop(owner, None)
            await self._queue.add(Key(job.metadata.namespace, job.metadata.name))
        return True

    async def _execute(
        self, action: Action, job: ResolvedJob, written: asyncio.Future[JobView | None], log: Any
    ) -> None:
        namespace, uid = job.metadata.namespace, job.metadata.uid or ""
        owner = Owner(namespace, uid)
        home = Home(owner, Key(namespace, job.metadata.name))
        match action:
            case StartPreflight(generation=generation, number=number):
                # Dependents do nothing on their own, so they may be created while the status is being written. The
                # check runs as soon as it exists, so it must not be created before the status is written.
                if not await self._dependents.prepare(job, written=written):
                    return
                check = preflight_job(job, self._settings, generation=generation, number=number)
                created = await self._create(check, job, PREFLIGHTS)
                self._cache.add_created(
                    home, self._cache.preflights, created["metadata"]["uid"], preflight_view(created)
                )
            case StartAttempt(number=number):
                await self._dependents.ensure(job)
                created = await self._create(ray_job(job, self._settings, number=number), job, RAY_JOBS)
                self._cache.add_created(home, self._cache.ray_jobs, created["metadata"]["uid"], ray_job_view(created))
            case DeleteRayJob(name=name, uid=child_uid):
                await self._kube.delete(RAY_JOBS, namespace, name, uid=child_uid)
                self._cache.ray_jobs.update(owner, child_uid, deleting=True)
            case DeletePreflight(name=name, uid=child_uid):
                await self._kube.delete(PREFLIGHTS, namespace, name, uid=child_uid)
                self._cache.preflights.update(owner, child_uid, deleting=True)
            case DeleteJob():
                # The user may have changed the job since the plan was made, for example to start it again.
                planned = await written
                version = planned.version if planned is not None else None
                await self._kube.delete(JOB_RESOURCE, namespace, job.metadata.name, uid=uid, version=version)
        log.info("action", action=type(action).__name__, **vars(action))

    async def _create(self, manifest: Manifest, job: PromptInternJob, resource: Resource) -> dict[str, Any]:
        """Create an object and return it, or return the existing object of this name if the operator created it.

        Raises:
            RequestFailed: if the request fails, or if the name is taken.
        """
        body = await self._kube.create(manifest)
        if body is None:
            name = manifest["metadata"]["name"]
            body = await self._kube.get(resource, job.metadata.namespace, name)
            if body is None:
                raise RequestFailed(
                    f"{manifest['kind']} {name} existed when it was to be created, but is gone now", status=409
                )
            check_owner(body, job)
            if not self._is_own(body["metadata"]["uid"], job):
                # The next plan deletes it if the watch shows it, since no plan may rely on what somebody else created.
                # If the answer to an earlier request was lost, this deletes what that request created.
                is_watched = (body["metadata"].get("labels") or {}).get(LABEL_MANAGED_BY) == OPERATOR
                end = "is being deleted" if is_watched else "has to be deleted by hand"
                message = f"{manifest['kind']} {name} was not created by this operator, and {end}"
                reason = EARLIER_JOB if is_watched else NAME_TAKEN
                raise RequestFailed(message, status=409, reason=reason, server_message=message)
        return body


def is_same_status(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two statuses are equal, even if they spell times or empty values differently."""
    return bool(_plain(a) == _plain(b))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: plain for key, item in value.items() if (plain := _plain(item)) not in (None, [], {})}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value[:4].isdigit() and "T" in value:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return value
    return value


def recorded_uids(status: PromptInternJobStatus | None) -> set[str]:
    """Return the uids of the RayJobs and of the preflight that the status of a job records."""
    if status is None:
        return set()
    return {uid for uid in (status.check_uid, *(each.ray_job_uid for each in status.attempts)) if uid is not None}


def _operator_part(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a status that the operator writes."""
    return {name: value for name, value in status.items() if name != "training"}


def _parsed(body: Mapping[str, Any], log: Any) -> PromptInternJob:
    """Parse a job, without the head pod's part of the status if only that part is invalid.

    The head pod runs a tenant's code, so its part must not decide whether the operator can read the rest.

    Raises:
        InvalidJob: if the rest is invalid.
    """
    try:
        return parse_job(body)
    except InvalidJob as error:
        status = body.get("status") or {}
        if "training" not in status:
            raise
        job = parse_job({**body, "status": _operator_part(status)})
        log.warning("cannot read the head pod's part of the status", problems=str(error))
        return job
