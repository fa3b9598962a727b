"""One look at a job: what is observed, what is planned, and carrying it out."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from promptintern_api import InvalidJob, PromptInternJob, parse_job
from promptintern_api.status import PromptInternJobStatus
from pydantic import ValidationError

from promptintern_operator.events import event_of
from promptintern_operator.kube import JOBS as JOB_RESOURCE
from promptintern_operator.kube import PREFLIGHTS, RAY_JOBS, Kube, RequestFailed, Resource
from promptintern_operator.manifests.config import refusals, resolve
from promptintern_operator.manifests.meta import Manifest
from promptintern_operator.manifests.preflight import preflight_job
from promptintern_operator.manifests.rayjob import ray_job
from promptintern_operator.metrics import ATTEMPTS, RECONCILE_SECONDS, RECONCILES, STAGE_SECONDS, START_SECONDS
from promptintern_operator.plan import (
    Action,
    DeleteJob,
    DeletePreflight,
    DeleteRayJob,
    Happening,
    Limits,
    Observed,
    Plan,
    StartAttempt,
    StartPreflight,
    plan,
    unreadable,
)
from promptintern_operator.plan.denied import denied
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.settings import Settings
from promptintern_operator.store import JobBody, Owner, Store
from promptintern_operator.surroundings import Surroundings, check_owner
from promptintern_operator.views import controller_of, preflight_view, ray_job_view

_log = structlog.get_logger("promptintern.operator")


class Reconciler:
    """Looks at jobs. Holds no state of its own: a new one takes over where another stopped."""

    def __init__(self, kube: Kube, store: Store, queue: Workqueue, settings: Settings) -> None:
        self._kube = kube
        self._store = store
        self._queue = queue
        self._settings = settings
        self._surroundings = Surroundings(kube, store, settings)
        self._limits = Limits(
            stuck=settings.stuck_seconds,
            queue=settings.queue_seconds,
            retry=settings.retry_seconds,
            retry_max=settings.retry_seconds_max,
        )

    async def look(self, key: Key) -> None:
        """Bring the job at ``key`` one step further. Raises ``RequestFailed`` to be called again."""
        known = self._store.jobs.get(key)
        if known is None or "deletionTimestamp" in known.body["metadata"]:
            self._queue.forget(key)
            return
        log = _log.bind(namespace=key.namespace, job=key.name)
        with RECONCILE_SECONDS.time():
            try:
                job = parse_job(known.body)
            except InvalidJob as error:
                # The API server took it under another version's rules; a user has to change it.
                log.error("job cannot be read", problems=str(error))
                RECONCILES.labels(result="unreadable").inc()
                await self._say_unreadable(key, known, str(error), log)
                return
            now = datetime.now(UTC).replace(microsecond=0)
            observed = await self._observed(key, known, job)
            result = plan(
                job,
                observed,
                generation=known.generation,
                now=now,
                limits=self._limits,
                refusals=refusals(job, self._settings),
                storage=resolve(job, self._settings).spec.storage,
            )
            writing = asyncio.create_task(self._write_status(key, known, result))
            try:
                for action in result.actions:
                    if not isinstance(action, StartPreflight) and not await writing:
                        break
                    if not await self._may_carry_out(action, job, writing, log):
                        break
                    if action == StartAttempt(1):
                        accepted = datetime.fromisoformat(result.status["startTime"])
                        START_SECONDS.observe((datetime.now(UTC) - accepted).total_seconds())
            finally:
                # Whatever became of them. Others wait for what was done, and nobody for its being told.
                written = await writing
                if written:
                    await asyncio.gather(*(self._tell(key, known, happening, log) for happening in result.happenings))
            if not written:
                return
            if result.actions:
                # The store knows what they did, so that the watches tell nothing new; and a denial has to be told.
                self._queue.add_soon(key)
            if result.look_again is not None:
                self._queue.add_after(key, (result.look_again - now).total_seconds())
            RECONCILES.labels(result="done").inc()

    async def _say_unreadable(self, key: Key, known: JobBody, problems: str, log: Any) -> None:
        try:
            status = PromptInternJobStatus.model_validate(known.body.get("status") or {})
        except ValidationError:
            return  # nor can its status be
        now = datetime.now(UTC).replace(microsecond=0)
        result = unreadable(status, problems, generation=known.generation, now=now)
        if result is not None and await self._write_status(key, known, result):
            await asyncio.gather(*(self._tell(key, known, happening, log) for happening in result.happenings))

    async def _observed(self, key: Key, known: JobBody, job: PromptInternJob) -> Observed:
        """What the watches showed. That a RayJob is gone is asked for, since a watch may lag behind."""
        observed = self._store.observed(Owner(key.namespace, known.uid))
        attempts = job.status.attempts if job.status else []
        if attempts and attempts[-1].outcome is None:
            name = attempts[-1].ray_job_name
            if all(each.name != name for each in observed.ray_jobs):
                body = await self._kube.get(RAY_JOBS, key.namespace, name)
                if body is not None and controller_of(body["metadata"]).get("uid") == known.uid:
                    return replace(observed, ray_jobs=(*observed.ray_jobs, ray_job_view(body)))
        return observed

    async def _write_status(self, key: Key, known: JobBody, result: Plan) -> bool:
        """Write what changed; False if the job changed meanwhile, so that the plan is out of date."""
        before = known.body.get("status") or {}
        mine = {name: value for name, value in before.items() if name != "training"}
        if same(mine, result.status):
            return True
        try:
            written = await self._kube.apply_job_status(
                key.namespace, key.name, uid=known.uid, version=known.version, status=result.status
            )
        except RequestFailed as error:
            if error.status not in (404, 409):
                raise
            # A newer version is on its way through the watch. Should it be lost, look again all the same.
            RECONCILES.labels(result="outdated").inc()
            self._queue.add_after(key, 2.0)
            return False
        if self._store.jobs.get(key) is known:  # a watch that was quicker may have shown a newer one
            self._store.jobs[key] = JobBody.of(written)
        _measure(before, result.status)
        return True

    async def _tell(self, key: Key, known: JobBody, happening: Happening, log: Any) -> None:
        log.info("told", reason=happening.reason, message=happening.message)
        try:
            await self._kube.tell(event_of(key, uid=known.uid, happening=happening, reporter=self._settings.pod_name))
        except RequestFailed as error:
            log.warning("event lost", error=str(error))

    async def _may_carry_out(
        self, action: Action, job: PromptInternJob, written: asyncio.Future[bool], log: Any
    ) -> bool:
        """Carry ``action`` out; False if the API server does not let it, for a reason that the job has to tell."""
        owner = Owner(job.metadata.namespace, job.metadata.uid or "")
        before = self._store.denied.get(owner)
        try:
            await self._carry_out(action, job, written, log)
        except RequestFailed as error:
            moment = datetime.now(UTC).replace(microsecond=0)
            found = denied(action, before, status=error.status, reason=error.reason, said=error.said, now=moment)
            if found is None:
                raise
            log.warning("denied", reason=found.reason, error=str(error))
            RECONCILES.labels(result="denied").inc()
            self._store.denied[owner] = found
            return False
        if before is not None and before.action == action and await written:  # what the job said of it holds no more
            self._store.denied.pop(owner, None)
            await self._queue.add(Key(job.metadata.namespace, job.metadata.name))
        return True

    async def _carry_out(self, action: Action, job: PromptInternJob, written: asyncio.Future[bool], log: Any) -> None:
        namespace, uid = job.metadata.namespace, job.metadata.uid or ""
        owner = Owner(namespace, uid)
        match action:
            case StartPreflight(generation=generation, number=number):
                # What does nothing by itself is made while the status is written; the check runs, and is not.
                if not await self._surroundings.make(job, written=written):
                    return
                check = preflight_job(job, self._settings, generation=generation, number=number)
                made = await self._create(check, job, PREFLIGHTS)
                # Seen at once: what the watch has not shown yet need not be made again.
                self._store.preflights.add(owner, made["metadata"]["uid"], preflight_view(made))
            case StartAttempt(number=number):
                await self._surroundings.ensure(job)
                made = await self._create(ray_job(job, self._settings, number=number), job, RAY_JOBS)
                self._store.ray_job_owners[Owner(namespace, made["metadata"]["uid"])] = Key(
                    namespace, job.metadata.name
                )
                self._store.ray_jobs.add(owner, made["metadata"]["uid"], ray_job_view(made))
            case DeleteRayJob(name=name, uid=child):
                await self._kube.delete(RAY_JOBS, namespace, name, uid=child)
                self._store.ray_jobs.change(owner, child, deleting=True)
            case DeletePreflight(name=name, uid=child):
                await self._kube.delete(PREFLIGHTS, namespace, name, uid=child)
                self._store.preflights.change(owner, child, deleting=True)
            case DeleteJob():
                await self._kube.delete(JOB_RESOURCE, namespace, job.metadata.name, uid=uid)
        log.info("action", action=type(action).__name__, **vars(action))

    async def _create(self, manifest: Manifest, job: PromptInternJob, resource: Resource) -> dict[str, Any]:
        """Create an object, unless this very job has it already; returns it."""
        made = await self._kube.create(manifest)
        if made is None:
            name = manifest["metadata"]["name"]
            made = await self._kube.get(resource, job.metadata.namespace, name)
            if made is None:
                raise RequestFailed(f"{manifest['kind']} {name} was there a moment ago", status=409)
            check_owner(made, job)
        return made


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two statuses say the same; times may be written differently."""
    return bool(_plain(one) == _plain(other))


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


def _measure(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    ended = {a["number"] for a in before.get("attempts", []) if a.get("outcome")}
    for attempt in after.get("attempts", []):
        if attempt.get("outcome") and attempt["number"] not in ended:
            ATTEMPTS.labels(outcome=attempt["outcome"]).inc()
    if after.get("completionTime") and not before.get("completionTime"):
        for stage in (before.get("training") or {}).get("stages", []):
            if stage.get("startedAt") and stage.get("finishedAt"):
                took: timedelta = datetime.fromisoformat(stage["finishedAt"]) - datetime.fromisoformat(
                    stage["startedAt"]
                )
                STAGE_SECONDS.labels(stage=str(stage["index"])).observe(took.total_seconds())
