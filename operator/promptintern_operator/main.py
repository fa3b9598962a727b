"""The `promptintern-operator` process, which leads or waits to become the leader."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Collection
from typing import Any

import kopf
import structlog
from kubernetes.aio import config
from promptintern_api.contract import OPERATOR_ENV_PREFIX, ExitCode
from pydantic import ValidationError

from promptintern_operator.cache import Cache
from promptintern_operator.handlers import build_registry, kopf_settings
from promptintern_operator.job_metrics import JOB_METRICS
from promptintern_operator.kube import KUEUE, WORKLOADS, Kube, RequestFailed, api_client
from promptintern_operator.kuberay import find_kuberay, watch_kuberay
from promptintern_operator.leader import Leadership, lead
from promptintern_operator.memory import trim
from promptintern_operator.probes import serve_metrics, serve_probes
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.reconcile import Reconciler
from promptintern_operator.resync import resync
from promptintern_operator.settings import Settings
from promptintern_operator.sync import HasSynced
from promptintern_operator.watch_health import silence, tracked_session

_JOB_GAUGE_SECONDS = 10.0
_SYNC_TRIES, _SYNC_SECONDS = 480, 0.25
_UNSYNCED_RETRY_SECONDS = 5.0
"""The delay after which a job is requeued if its namespace has not synced. The operator first waits up to two minutes
for all namespaces; after that, only jobs in namespaces that the operator cannot list still have to wait.
"""
_RESYNC_SECONDS = 120.0
_STOP_SECONDS = 10.0
"""The time that Kopf gets to end."""
_log = structlog.get_logger("promptintern.operator")


async def run(settings: Settings) -> None:
    """Serve probes and metrics, and reconcile jobs while leading. Return on a stop signal or when the lease is lost."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        await config.load_kube_config()
    serve_metrics(settings)
    stop = asyncio.Event()
    stop_at_signals(stop)
    probes = await serve_probes(
        settings.probe_port, silence=silence, limit=settings.silence_seconds, ready=lambda: not stop.is_set()
    )
    async with api_client() as api:
        leadership = Leadership(settings.lease_seconds)
        work = asyncio.create_task(
            lead(api, settings, leadership, lambda: work_until(stop, Kube(api, may_write=leadership.is_held), settings))
            if settings.leader_election
            else work_until(stop, Kube(api), settings)
        )
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            # A leader stops on its own; a replica that only waits for the lease is cancelled here.
            await asyncio.wait({work}, timeout=5)
            work.cancel()
        await probes.cleanup()
        if work.done() and not work.cancelled():
            work.result()


def stop_at_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def work_until(stop: asyncio.Event, kube: Kube, settings: Settings) -> None:
    """Watch and reconcile until ``stop`` is set."""
    cache, unwatched = Cache(), asyncio.Event()
    queue = Workqueue(urgent=cache.awaits_first_attempt)
    try:
        cache.kuberay = await find_kuberay(kube)
    except RequestFailed as error:
        _log.warning("cannot detect KubeRay", error=str(error))
    registry = build_registry(cache, queue)

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> kopf.AiohttpSession:
        info = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        if info is None:
            raise kopf.LoginError("found neither a service account nor a kubeconfig to log in with")
        return tracked_session(info)

    reconciler = Reconciler(kube, cache, queue, settings)
    helpers = [
        asyncio.create_task(watch_kuberay(kube, cache, queue, unwatched=unwatched)),
        asyncio.create_task(_update_job_gauge(cache)),
        asyncio.create_task(_resync(kube, cache, queue, settings)),
        asyncio.create_task(_reconcile_jobs(kube, queue, reconciler, cache, settings)),
    ]
    try:
        await _watch(registry, settings, stop, unwatched, helpers)
        while unwatched.is_set() and not stop.is_set():
            unwatched.clear()
            await _watch(registry, settings, stop, unwatched, helpers)
    finally:
        for helper in (*helpers, *cache.grants.values()):
            helper.cancel()


async def _watch(
    registry: kopf.OperatorRegistry,
    settings: Settings,
    stop: asyncio.Event,
    pause: asyncio.Event,
    helpers: Collection[asyncio.Task[None]],
) -> None:
    """Run Kopf until ``stop`` or ``pause`` is set, or one of the ``helpers``, which run forever, fails.

    ``kopf.operator`` is not used here, because when it ends, it treats every task that the process has started since as
    its own: it waits 5 s for these tasks and then cancels them, including the renewal of the lease.
    """
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=kopf_settings(limited=bool(settings.namespaces)),
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        standalone=True,
        # By default, Kopf derives the identity from the user name, which a pod may lack.
        identity=settings.pod_name,  # type: ignore[arg-type]
    )
    stop_at_signals(stop)  # Kopf has replaced our handlers with its own
    events = [asyncio.create_task(event.wait()) for event in (stop, pause)]
    try:
        done, _ = await asyncio.wait([*tasks, *events, *helpers], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, *events):
            task.cancel()
        await asyncio.wait([*tasks, *events], timeout=_STOP_SECONDS)
    for task in done:
        task.result()


async def _reconcile_jobs(
    kube: Kube, queue: Workqueue, reconciler: Reconciler, cache: Cache, settings: Settings
) -> None:
    """Reconcile jobs in namespaces that have synced; elsewhere, an object that is not in the cache may still exist."""
    kueue = False
    try:
        kueue = await kube.preferred(KUEUE, WORKLOADS) is not None
    except RequestFailed as error:
        _log.warning("cannot detect Kueue", error=str(error))
    else:
        if not kueue:
            _log.info("Kueue not found", message="jobs run without quotas of Kueue until it is installed")
    has_synced = HasSynced(cache, namespaces=settings.namespaces, kueue=kueue)
    for _ in range(_SYNC_TRIES):
        if has_synced.where_allowed():
            break
        await asyncio.sleep(_SYNC_SECONDS)
    else:
        _log.warning("some namespaces cannot be listed; their jobs wait")
    await asyncio.sleep(_SYNC_SECONDS)

    async def reconcile(key: Key) -> None:
        if has_synced(key.namespace):
            await reconciler.reconcile(key)
        else:
            queue.add_after(key, _UNSYNCED_RETRY_SECONDS)

    await asyncio.gather(*(queue.work(reconcile) for _ in range(settings.concurrency)))


async def _resync(kube: Kube, cache: Cache, queue: Workqueue, settings: Settings) -> None:
    """Periodically remove from the cache the objects that no longer exist, and return free memory to the system.

    A watch that was interrupted does not report the objects that were deleted during the interruption.
    """
    while True:
        await asyncio.sleep(_RESYNC_SECONDS)
        try:
            for key in await resync(kube, cache, settings.namespaces):
                await queue.add(key)
        except RequestFailed as error:
            _log.warning("resync failed", error=str(error))
        trim()


async def _update_job_gauge(cache: Cache) -> None:
    while True:
        JOB_METRICS.update(cache.job_counts())
        await asyncio.sleep(_JOB_GAUGE_SECONDS)


def log_as_json() -> None:
    """Configure logging to write the operator's events and the warnings of libraries, one JSON object per line."""
    common: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *common, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(is_worth_logging)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for Kopf's warning that nothing but Kueue's kind is missing, because Kueue is optional."""
    _, unresolved, selectors = record.getMessage().partition("Unresolved resources cannot be served")
    return not unresolved or selectors.count("Selector(") != 1 or KUEUE not in selectors


def main() -> None:
    """Run the operator. Exit with status 2 if a setting is invalid, and with status 1 if the operator fails."""
    log_as_json()
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = OPERATOR_ENV_PREFIX + "_".join(map(str, problem["loc"])).upper()
            print(f"error: {name}: {problem['msg']}", file=sys.stderr)
        sys.exit(ExitCode.USER_ERROR)
    code = ExitCode.DONE
    try:
        asyncio.new_event_loop().run_until_complete(run(settings))
    except Exception:  # noqa: BLE001 -- logged
        _log.exception("the operator failed; this process ends")
        code = ExitCode.FAILED
    # asyncio.run and sys.exit would wait for tasks of Kopf that do not end when they are cancelled.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
