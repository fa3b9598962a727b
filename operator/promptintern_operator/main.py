"""`promptintern-operator`: one process, which leads or waits to."""

import asyncio
import logging
import signal
import sys
from typing import Any

import kopf
import structlog
from kubernetes.aio import config
from prometheus_client import start_http_server
from pydantic import ValidationError

from promptintern_operator.handlers import kopf_settings, registry_of
from promptintern_operator.kube import WORKLOADS, Kube, RequestFailed, api_client
from promptintern_operator.kuberay import find_kuberay, watch_kuberay
from promptintern_operator.leader import Tenure, lead
from promptintern_operator.listed import Listed
from promptintern_operator.memory import give_back
from promptintern_operator.metrics import JOBS_BY_PHASE
from promptintern_operator.probes import serve_probes
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.reconcile import Reconciler
from promptintern_operator.resync import resync
from promptintern_operator.settings import Settings
from promptintern_operator.store import Store
from promptintern_operator.watching import listening_session, silence

_PHASES_SECONDS = 10.0
_LIST_TRIES, _LIST_SECONDS = 480, 0.25
_UNLISTED_SECONDS = 5.0
"""After two minutes, only jobs of a namespace in which something could not be listed wait on."""
_RESYNC_SECONDS = 120.0
_log = structlog.get_logger("promptintern.operator")


async def run(settings: Settings) -> None:
    """Serve probes and metrics, and work while leading. Returns when told to stop, or when the lease is lost."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        await config.load_kube_config()
    start_http_server(settings.metrics_port)
    stop = asyncio.Event()
    stop_at_signals(stop)
    probes = await serve_probes(
        settings.probe_port, silence=silence, limit=settings.silence_seconds, ready=lambda: not stop.is_set()
    )
    async with api_client() as api:
        tenure = Tenure(settings.lease_seconds)
        work = asyncio.create_task(
            lead(api, settings, tenure, lambda: work_until(stop, Kube(api, may_write=tenure.holds), settings))
            if settings.leader_election
            else work_until(stop, Kube(api), settings)
        )
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            # A leader stops by itself; one that only waits for the lease is ended here.
            await asyncio.wait({work}, timeout=5)
            work.cancel()
        await probes.cleanup()
        if work.done() and not work.cancelled():
            work.result()


def stop_at_signals(stop: asyncio.Event) -> None:
    """Have the signals that end a process set ``stop``."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def work_until(stop: asyncio.Event, kube: Kube, settings: Settings) -> None:
    """Watch and reconcile until ``stop``."""
    store, unwatched = Store(), asyncio.Event()
    queue = Workqueue(urgent=store.waits_for_first_attempt)
    try:
        store.kuberay = await find_kuberay(kube)
    except RequestFailed as error:
        _log.warning("KubeRay cannot be looked for", error=str(error))
    registry = registry_of(store, queue)

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> kopf.AiohttpSession:
        info = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        if info is None:
            raise kopf.LoginError("there is neither a service account nor a kubeconfig")
        return listening_session(info)

    reconciler = Reconciler(kube, store, queue, settings)
    helpers = [
        asyncio.create_task(watch_kuberay(kube, store, queue, unwatched=unwatched)),
        asyncio.create_task(_count_phases(store)),
        asyncio.create_task(_resync(kube, store, queue, settings)),
        asyncio.create_task(_work(kube, queue, reconciler, store, settings)),
    ]
    try:
        await _watch(registry, settings, stop, unwatched)
        while unwatched.is_set() and not stop.is_set():
            unwatched.clear()
            await _watch(registry, settings, stop, unwatched)
    finally:
        for helper in (*helpers, *store.granting.values()):
            helper.cancel()


async def _watch(
    registry: kopf.OperatorRegistry, settings: Settings, stop: asyncio.Event, pause: asyncio.Event
) -> None:
    """Run Kopf until either event.

    Not by ``kopf.operator``: when that ends, it takes every younger task of the process for its own, waits 5 s for
    them and cancels them, the renewal of the lease too.
    """
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=kopf_settings(limited=bool(settings.namespaces)),
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        standalone=True,
        # Not made from the user's name, which a pod need not have.
        identity=settings.pod_name,  # type: ignore[arg-type]
    )
    stop_at_signals(stop)  # Kopf has put its own handlers in their place
    events = [asyncio.create_task(event.wait()) for event in (stop, pause)]
    try:
        done, _ = await asyncio.wait([*tasks, *events], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, *events):
            task.cancel()
        await asyncio.gather(*tasks, *events, return_exceptions=True)
    for task in done:
        task.result()


async def _work(kube: Kube, queue: Workqueue, reconciler: Reconciler, store: Store, settings: Settings) -> None:
    """Look at jobs, once all that belongs to them was listed: what is not known yet must not count as gone."""
    kueue = False
    try:
        kueue = await kube.serves(WORKLOADS)
    except RequestFailed as error:
        _log.warning("Kueue cannot be looked for", error=str(error))
    listed = Listed(store, namespaces=settings.namespaces, kueue=kueue)
    for _ in range(_LIST_TRIES):
        if listed.as_far_as_allowed():
            break
        await asyncio.sleep(_LIST_SECONDS)
    else:
        _log.warning("not everything could be listed; jobs there wait")
    await asyncio.sleep(_LIST_SECONDS)

    async def look(key: Key) -> None:
        if listed(key.namespace):
            await reconciler.look(key)
        else:
            queue.add_after(key, _UNLISTED_SECONDS)

    await asyncio.gather(*(queue.work(look) for _ in range(settings.concurrency)))


async def _resync(kube: Kube, store: Store, queue: Workqueue, settings: Settings) -> None:
    """Now and then, forget what is not there any more: a watch that begins anew does not tell what went meanwhile.

    And give its memory back, with that of all that went since.
    """
    while True:
        await asyncio.sleep(_RESYNC_SECONDS)
        try:
            for key in await resync(kube, store, settings.namespaces):
                await queue.add(key)
        except RequestFailed as error:
            _log.warning("resync failed", error=str(error))
        give_back()


async def _count_phases(store: Store) -> None:
    while True:
        JOBS_BY_PHASE.clear()
        for phase, count in store.phases().items():
            JOBS_BY_PHASE.labels(phase=phase).set(count)
        await asyncio.sleep(_PHASES_SECONDS)


def log_as_json() -> None:
    """One JSON object a line, from us and, if they warn, from libraries."""
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
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def main() -> None:
    """Run the operator. Exit status 2 for settings that are wrong."""
    log_as_json()
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "PROMPTINTERN_" + "_".join(map(str, problem["loc"])).upper()
            print(f"error: {name}: {problem['msg']}", file=sys.stderr)
        sys.exit(2)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
