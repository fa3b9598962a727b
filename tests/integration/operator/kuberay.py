"""A small KubeRay with a kubelet, a Job controller and a garbage collector, which moves objects through their lives.

It models what the operator can observe: labels, statuses, the order in which they change, finalizers. Nothing runs.
Like KubeRay by default, it handles one RayJob at a time.
"""

import asyncio
import json
import secrets
import ssl
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from tests.integration.operator.requests import CHILDREN, MERGE, PODS, PREFLIGHTS, RAY_JOBS, Body, loads

FINALIZER = "ray.io/rayjob-finalizer"
JOB, JOB_UID = "promptintern.dev/job", "promptintern.dev/job-uid"
_ENDINGS = {
    "succeeds": {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
    "crashes": {
        "jobDeploymentStatus": "Failed",
        "jobStatus": "FAILED",
        "reason": "AppFailed",
        "message": "Job entrypoint command failed with exit code 1, last available logs:\nboom",
    },
    "refuses": {
        "jobDeploymentStatus": "Failed",
        "jobStatus": "FAILED",
        "reason": "AppFailed",
        "message": "Job entrypoint command failed with exit code 2, last available logs:\nrow 3: no answer",
    },
}


@dataclass(frozen=True, kw_only=True)
class Life:
    """The course of an attempt."""

    starting: float = 0.05
    """Seconds until the cluster is up."""
    running: float = 0.1
    ends: str = "succeeds"
    """succeeds, crashes, refuses; ``invalid`` if KubeRay rejects the RayJob; ``never``."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The course of a preflight."""

    seconds: float = 0.0
    findings: str | None = None
    """The findings, as `promptintern validate` reports them; None if there are none."""


class FakeKubeRay:
    """A context manager that runs KubeRay in a separate thread."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self.lives: dict[str, Life] = {}
        """The life of each attempt, by the name of its RayJob; others have ``usual_life``."""
        self.checks: dict[str, Check] = {}
        """The course of each preflight, by the name of its Job."""
        self.usual_life = Life()
        self.most_pods: int | None = None
        """The number of pods that a cluster has at most, or None if it has as many as its RayJob asks for."""
        self.seen_at: dict[tuple[str, str, str], float] = {}
        """The time at which each RayJob and preflight was first seen, by kind, namespace and name (monotonic)."""
        self.checked_at: dict[tuple[str, str], float] = {}
        """The time at which the preflight of a job ended, by namespace and job."""
        self.ended: set[tuple[str, str]] = set()
        """Jobs that have a completion time, by namespace and name."""
        self.ray_jobs: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        """Uids of all RayJobs that ever existed, by namespace and name."""
        self.counts: Counter[str] = Counter()
        """Changes that were seen or made, by kind."""
        self.requests = 0
        self.problems: list[str] = []
        self._url, self._context = url, context
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._alive: dict[str, dict[str, Body]] = {}
        self._session: aiohttp.ClientSession
        self._working = asyncio.Event()
        self._working.set()
        self._turn = asyncio.Lock()
        """Held by the RayJob that is being handled."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="KubeRay", daemon=True)

    def __enter__(self) -> "FakeKubeRay":
        self._thread.start()
        self._main = asyncio.run_coroutine_threadsafe(self._run(), self._loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._main.cancel()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def stop(self) -> None:
        """Stop KubeRay and all other controllers until ``go_on``."""
        self._loop.call_soon_threadsafe(self._working.clear)

    def go_on(self) -> None:
        """Continue after ``stop``."""
        self._loop.call_soon_threadsafe(self._working.set)

    # Watching

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=2**20) as self._session:
            await asyncio.gather(
                self._watch("/apis/ray.io/v1/rayjobs", self._ray_job),
                self._watch("/apis/batch/v1/jobs", self._preflight),
                self._watch("/apis/promptintern.dev/v1alpha1/promptinternjobs", self._job),
            )

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, path: str, handle: Callable[[str, Body], Awaitable[None]]) -> None:
        while True:
            try:
                async for what, item in self._changes(path):
                    await self._working.wait()
                    self.counts[path.rpartition("/")[2]] += 1
                    await handle(what, item)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                pass
            await asyncio.sleep(0.3)

    async def _changes(self, path: str) -> AsyncIterator[tuple[str, Body]]:
        """Yield a listing, then changes. An object that was deleted unseen is reported as DELETED too."""
        alive = self._alive.setdefault(path, {})
        async with self._session.get(self._url + path, timeout=aiohttp.ClientTimeout(total=30)) as answer:
            if answer.status != 200:
                raise aiohttp.ClientConnectionError(str(answer.status))
            listing = loads(await answer.read())
        listed = {item["metadata"]["uid"]: item for item in listing["items"]}
        for uid in [uid for uid in alive if uid not in listed]:
            yield "DELETED", alive.pop(uid)
        for uid, item in listed.items():
            alive[uid] = item
            yield "ADDED", item
        query = f"?watch=true&resourceVersion={listing['metadata']['resourceVersion']}"
        forever = aiohttp.ClientTimeout(total=None, sock_read=30)
        async with self._session.get(self._url + path + query, timeout=forever) as answer:
            async for line in answer.content:
                change = loads(line)
                item = change["object"]
                if change["type"] == "ERROR":
                    return
                if change["type"] == "DELETED":
                    alive.pop(item["metadata"]["uid"], None)
                else:
                    alive[item["metadata"]["uid"]] = item
                yield change["type"], item

    def _begin(self, uid: str, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 -- a test reads it
                self.problems.append(f"{type(error).__name__}: {error}")

        if (before := self._tasks.get(uid)) is not None:
            before.cancel()
        task = self._tasks[uid] = self._loop.create_task(guarded())
        task.add_done_callback(lambda done: self._tasks.pop(uid) if self._tasks.get(uid) is done else None)

    async def _ask(self, method: str, path: str, body: Body | None = None, kind: str = "application/json") -> Body:
        """Send a request until the server responds; return {} for not found and already exists."""
        while True:
            await self._working.wait()
            self.requests += 1
            try:
                async with self._session.request(
                    method,
                    self._url + path,
                    data=None if body is None else json.dumps(body),
                    headers={"Content-Type": kind},
                    timeout=aiohttp.ClientTimeout(total=30),
                ) as answer:
                    content = loads(await answer.read())
                    if answer.status < 300:
                        return dict(content)
                    if answer.status in (404, 409):
                        return {}
                    if answer.status < 500 and answer.status != 429:
                        raise RuntimeError(f"{method} {path}: {content.get('message')}")
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                pass
            await asyncio.sleep(0.2)

    async def _set_status(self, path: str, status: Body) -> None:
        await self._ask("PATCH", path + "/status", {"status": status}, MERGE)

    # KubeRay

    async def _ray_job(self, what: str, item: Body) -> None:
        meta, status = item["metadata"], item.get("status") or {}
        if what == "DELETED":
            return
        self.seen_at.setdefault(("RayJob", meta["namespace"], meta["name"]), time.monotonic())
        self.ray_jobs[meta["namespace"], meta["name"]].add(meta["uid"])
        if "deletionTimestamp" in meta:
            if FINALIZER in meta.get("finalizers", []) and f"end {meta['uid']}" not in self._tasks:
                if (life := self._tasks.get(meta["uid"])) is not None:
                    life.cancel()
                self._begin(f"end {meta['uid']}", self._take_down(item))
        elif item["spec"].get("suspend"):
            if not status.get("jobDeploymentStatus"):
                await self._set_status(_at(RAY_JOBS, item), {"jobDeploymentStatus": "Suspended"})
        elif status.get("jobDeploymentStatus", "") in ("", "New") and meta["uid"] not in self._tasks:
            self._begin(meta["uid"], self._live(item))

    async def _live(self, item: Body) -> None:
        path, name = _at(RAY_JOBS, item), item["metadata"]["name"]
        life = self.lives.get(name, self.usual_life)
        cluster = f"{name}-{secrets.token_hex(3)[:5]}"
        first = {"jobDeploymentStatus": "Initializing", "rayClusterName": cluster}
        if life.ends == "invalid":
            first = {"jobDeploymentStatus": "ValidationFailed", "message": "the RayJob is not as it should be"}
        async with self._turn:
            await self._ask("PATCH", path, {"metadata": {"finalizers": [FINALIZER]}}, MERGE)
            await self._set_status(path, first)
        if life.ends == "invalid":
            return
        spec = item["spec"]["rayClusterSpec"]
        groups = [spec["headGroupSpec"], *(g for g in spec["workerGroupSpecs"] for _ in range(g.get("replicas", 1)))]
        groups = groups[: self.most_pods]
        pods = [await self._create_pod(item, f"{cluster}-{i}", g["template"], cluster) for i, g in enumerate(groups)]
        await asyncio.sleep(life.starting)
        for pod in pods:
            await self._run_pod(pod)
        async with self._turn:
            await self._set_status(path, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"})
        if life.ends == "never":
            return
        await asyncio.sleep(life.running)
        await self.finish(item, life.ends)

    async def finish(self, item: Body, ends: str) -> None:
        """End the driver of a RayJob, and remove its cluster."""
        async with self._turn:
            await self._set_status(_at(RAY_JOBS, item), {"endTime": _now(), **_ENDINGS[ends]})
        await self._delete_pods(item)

    async def _take_down(self, item: Body) -> None:
        await self._delete_pods(item)
        async with self._turn:
            await self._ask("PATCH", _at(RAY_JOBS, item), {"metadata": {"finalizers": None}}, MERGE)

    # Pods

    async def _create_pod(self, owner: Body, name: str, template: Body, cluster: str | None) -> Body:
        meta = owner["metadata"]
        labels = {**template["metadata"]["labels"], **({"ray.io/cluster": cluster} if cluster else {})}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": meta["namespace"],
                "labels": {**labels, "owner": meta["uid"]},
                "ownerReferences": [_controller(owner, cluster)],
            },
            "spec": template["spec"],
        }
        self.counts["pods"] += 1
        pod = await self._ask("POST", PODS.format(meta["namespace"]), body)
        return pod or await self._ask("GET", f"{PODS.format(meta['namespace'])}/{name}")

    async def _run_pod(self, pod: Body) -> None:
        containers = pod["spec"]["containers"]
        self.counts["pods"] += 1
        await self._set_status(
            _at(PODS, pod),
            {
                "phase": "Running",
                "conditions": [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready")],
                "containerStatuses": [
                    _container(each, {"running": {"startedAt": _now()}}, ready=True) for each in containers
                ],
            },
        )

    async def _delete_pods(self, owner: Body) -> None:
        meta = owner["metadata"]
        self.counts["pods"] += 1
        await self._ask(
            "DELETE",
            f"{PODS.format(meta['namespace'])}?labelSelector=owner={meta['uid']}",
            {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0},
        )

    # The Job controller

    async def _preflight(self, what: str, item: Body) -> None:
        meta = item["metadata"]
        if what == "DELETED":
            self._begin(f"pods of {meta['uid']}", self._delete_pods(item))
            return
        self.seen_at.setdefault(("Job", meta["namespace"], meta["name"]), time.monotonic())
        finished = any(c["status"] == "True" for c in (item.get("status") or {}).get("conditions") or [])
        if not finished and "deletionTimestamp" not in meta and meta["uid"] not in self._tasks:
            self._begin(meta["uid"], self._check(item))

    async def _check(self, item: Body) -> None:
        meta, path = item["metadata"], _at(PREFLIGHTS, item)
        check = self.checks.get(meta["name"], Check())
        started = _now()
        pod = await self._create_pod(item, f"{meta['name']}-{meta['uid'][:5]}", item["spec"]["template"], None)
        await asyncio.sleep(check.seconds)
        well = check.findings is None
        ended = {"exitCode": 0 if well else 2, "reason": "Completed" if well else "Error", "message": check.findings}
        self.counts["pods"] += 1
        await self._set_status(
            _at(PODS, pod),
            {
                "phase": "Succeeded" if well else "Failed",
                "containerStatuses": [_container(each, {"terminated": ended}) for each in pod["spec"]["containers"]],
            },
        )
        kinds = ("SuccessCriteriaMet", "Complete") if well else ("FailureTarget", "Failed")
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": _now(), "message": "exit code", "reason": "Ended"}
            for kind in kinds
        ]
        counted = {"succeeded": 1, "completionTime": _now()} if well else {"failed": 1}
        await self._set_status(path, {"startTime": started, "conditions": conditions, **counted})
        if well:
            self.checked_at[meta["namespace"], meta["labels"].get(JOB, "")] = time.monotonic()

    # The garbage collector

    async def _job(self, what: str, item: Body) -> None:
        meta = item["metadata"]
        if what == "DELETED":
            self._begin(f"gone {meta['uid']}", self._collect(meta))
        elif "completionTime" in (item.get("status") or {}):
            self.ended.add((meta["namespace"], meta["name"]))

    async def _collect(self, meta: Body) -> None:
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        for path in CHILDREN:
            now = options | ({"gracePeriodSeconds": 0} if path == PODS else {})
            await self._ask("DELETE", f"{path.format(meta['namespace'])}?labelSelector={JOB_UID}={meta['uid']}", now)


def _controller(owner: Body, cluster: str | None) -> Body:
    """Return the controller of a pod: the RayCluster ``cluster`` of the RayJob ``owner``, or else ``owner`` itself."""
    ray_cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": cluster}
    job = {"apiVersion": "batch/v1", "kind": "Job", "name": owner["metadata"]["name"]}
    return {**(ray_cluster if cluster else job), "uid": owner["metadata"]["uid"], "controller": True}


def _at(kind: str, item: Body) -> str:
    return f"{kind.format(item['metadata']['namespace'])}/{item['metadata']['name']}"


def _container(spec: Body, state: Body, *, ready: bool = False) -> Body:
    return {
        "name": spec["name"],
        "image": spec["image"],
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
