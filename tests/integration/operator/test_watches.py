"""Watches: CRDs that are added and removed, watches that fall silent, and objects that are deleted."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kopf
import pytest
from promptintern_operator.cache import Cache
from promptintern_operator.handlers import build_registry, kopf_settings
from promptintern_operator.queue import Workqueue
from promptintern_operator.watch_health import tracked_session

from tests.cluster import programs
from tests.cluster.client import wait_for
from tests.integration.operator.chart import CRDS, install_crd
from tests.integration.operator.kuberay import Life
from tests.integration.operator.place import Place, Tenant
from tests.integration.operator.process import Operator
from tests.integration.operator.requests import JOBS, PODS, PREFLIGHTS, RAY_JOBS, Refused, Requests

SILENCE = 5


@pytest.fixture(scope="module")
def operator(place: Place) -> Iterator[Operator]:
    """One operator for all tests of this file, which build on each other."""
    remove_kuberay(place)
    process = place.operator("operator-watching", silence_seconds=SILENCE)  # with a separate log
    process.start()
    process.wait_until_leading(40)
    yield process
    assert len(process.log_lines("leading")) == 1, "it was never restarted"
    process.stop()


@contextmanager
def heartbeat(requests: Requests, namespace: str) -> Iterator[None]:
    """Cause a change in every watch twice a second, as in a busy cluster."""
    ours = {"app.kubernetes.io/managed-by": "promptintern-operator"}
    meta: dict[str, Any] = {"name": "beat", "namespace": namespace, "labels": ours}
    pod = {"containers": [{"name": "a", "image": "b"}], "restartPolicy": "Never"}
    bodies = {
        PODS: {"spec": pod},
        PREFLIGHTS: {"spec": {"suspend": True, "template": {"spec": pod}}},
        RAY_JOBS: {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "spec": {"suspend": True},
        },
    }
    paths = {"/apis/apiextensions.k8s.io/v1/customresourcedefinitions": "promptinternjobs.promptintern.dev"}
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(0.5):
            count += 1
            for kind, body in bodies.items():
                with_meta = body | {"metadata": meta}
                attempt(lambda k=kind, b=with_meta: requests.ask("POST", k.format(namespace), b))
            annotated = {"metadata": {"annotations": {"beat": str(count)}}}
            for kind in (*bodies, JOBS):
                attempt(lambda k=kind, a=annotated: requests.merge(f"{k.format(namespace)}/beat", a))
            for path, name in paths.items():
                attempt(lambda p=path, n=name, a=annotated: requests.merge(f"{p}/{n}", a))

    def attempt(what: Any) -> None:
        with contextlib.suppress(
            Refused, OSError
        ):  # not served, existing already, or paused: the next beat may succeed
            what()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(40)


def remove_kuberay(place: Place) -> None:
    """Remove KubeRay's CRD, and with it all RayJobs."""
    place.requests.ask("DELETE", f"{CRDS}/rayjobs.ray.io")
    wait_for(lambda: place.requests.find(f"{CRDS}/rayjobs.ray.io") is None, 30, "the CRD to go")


def test_kuberay_comes_later(place: Place, operator: Operator, team: Tenant) -> None:
    team.submit("early", Life())
    message = team.wait_for_condition("early", "ClusterReady", "KubeRayMissing")
    assert "KubeRay is not installed" in message
    install_crd(place.requests, programs.ray_jobs_crd())
    team.wait("early", "Succeeded", 60)
    assert team.created_ray_jobs("early") == {"early-a1": 1}


def test_the_crd_is_removed_while_watched_and_restored(place: Place, operator: Operator, team: Tenant) -> None:
    team.submit("cut", Life(ends="never"), Life())
    team.wait("cut", "Training")
    remove_kuberay(place)
    wait_for(lambda: "KubeRayMissing" in str(team.status("cut")["conditions"]), 40, "the operator to see it")
    assert operator.alive
    install_crd(place.requests, programs.ray_jobs_crd())
    team.wait("cut", "Succeeded", 60)
    assert team.attempts("cut") == ["Infrastructure", "Succeeded"]


def test_a_silent_watch_fails_the_probe(place: Place, operator: Operator, team: Tenant) -> None:
    team.submit("beat", suspend=True)
    with heartbeat(place.requests, team.name):
        wait_for(lambda: operator.probe() == 200, 20, "all watches to be heard")
        began = time.monotonic()
        while time.monotonic() - began < SILENCE + 2:
            assert operator.probe() == 200, operator.metrics()["promptintern_watch_silence_seconds",]
            time.sleep(0.5)
        place.server.pause_api_server()
        try:
            wait_for(lambda: operator.probe() == 503, SILENCE + 5, "the probe to fail")
            assert operator.probe("/readyz") == 200
        finally:
            place.server.resume_api_server()
        wait_for(lambda: operator.probe() == 200, 15, "the probe to recover")
    assert operator.alive


def test_deleted_jobs_leave_nothing_in_the_cache(
    place: Place, operator: Operator, team: Tenant, monkeypatch: Any
) -> None:
    """A second cache next to the operator's own is empty when the jobs are gone."""
    monkeypatch.setenv("KUBECONFIG", str(place.release.kubeconfig))
    cache = Cache()
    with watching(cache):
        for n in range(5):
            team.submit(f"short-{n}", Life(running=0.5))
        wait_for(lambda: sum(key.namespace == team.name for key in cache.jobs) == 5, 20, "the jobs to be seen")
        for n in range(5):
            team.wait(f"short-{n}", "Succeeded")
        assert len(cached(cache)) > 0
        for job in place.requests.items(JOBS.replace("/namespaces/{}", "")):
            place.requests.ask("DELETE", f"{JOBS.format(job['metadata']['namespace'])}/{job['metadata']['name']}")
        wait_for(lambda: not cache.jobs and not cached(cache) and not cache.homes, 20, "all to be forgotten")


def cached(cache: Cache) -> list[object]:
    """Return the owners of all cached objects."""
    object_caches = (cache.ray_jobs, cache.pods, cache.preflights, cache.workloads)
    return [owner for objects in object_caches for owner in objects._views]


@contextmanager
def watching(cache: Cache) -> Iterator[None]:
    """Run the operator's handlers with ``cache`` in a separate thread. Nothing is reconciled."""
    stop, ended = threading.Event(), threading.Event()

    async def watch() -> None:
        registry = build_registry(cache, Workqueue())

        @kopf.on.login(registry=registry)
        async def login(**kwargs: Any) -> kopf.AiohttpSession:
            info = kopf.login_with_kubeconfig(**kwargs)
            assert info is not None
            return tracked_session(info)

        settings = kopf_settings(limited=False)
        await kopf.operator(
            registry=registry, settings=settings, clusterwide=True, standalone=True, stop_flag=stop, identity="test"
        )

    def run() -> None:
        try:
            asyncio.run(watch())
        finally:
            ended.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        ended.wait(20)
