"""What the operator hears: CRDs that come and go, watches that fall silent, and what it forgets."""

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
    """It lives through all of this file's tests, which are one story."""
    remove_kuberay(place)
    found = place.operator("operator-watching", silence_seconds=SILENCE)  # with a log of its own
    found.start()
    found.wait_until_leading(40)
    yield found
    assert len(found.log_lines("leading")) == 1, "it was never started again"
    found.stop()


@contextmanager
def heartbeat(requests: Requests, namespace: str) -> Iterator[None]:
    """Something happens in every watch twice a second, as in a busy cluster, for as long as it is served."""
    ours = {"app.kubernetes.io/managed-by": "promptintern-operator"}
    meta: dict[str, Any] = {"name": "beat", "namespace": namespace, "labels": ours}
    pod = {"containers": [{"name": "a", "image": "b"}], "restartPolicy": "Never"}
    made = {
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
            for kind, body in made.items():
                with_meta = body | {"metadata": meta}
                attempt(lambda k=kind, b=with_meta: requests.ask("POST", k.format(namespace), b))
            annotated = {"metadata": {"annotations": {"beat": str(count)}}}
            for kind in (*made, JOBS):
                attempt(lambda k=kind, a=annotated: requests.merge(f"{k.format(namespace)}/beat", a))
            for path, name in paths.items():
                attempt(lambda p=path, n=name, a=annotated: requests.merge(f"{p}/{n}", a))

    def attempt(what: Any) -> None:
        with contextlib.suppress(
            Refused, OSError
        ):  # not served, there already, pause_fields: the next beat may go better
            what()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(40)


def remove_kuberay(place: Place) -> None:
    """Remove its CRD, and with it all RayJobs."""
    place.requests.ask("DELETE", f"{CRDS}/rayjobs.ray.io")
    wait_for(lambda: place.requests.find(f"{CRDS}/rayjobs.ray.io") is None, 30, "the CRD to go")


def test_kuberay_comes_later(place: Place, operator: Operator, team: Tenant) -> None:
    team.submit("early", Life())
    said = team.wait_for_condition("early", "ClusterReady", "KubeRayMissing")
    assert "KubeRay is not installed" in said
    install_crd(place.requests, programs.ray_jobs_crd())
    team.wait("early", "Succeeded", 60)
    assert team.made("early") == {"early-a1": 1}


def test_the_crd_goes_while_it_is_watched_and_comes_back(place: Place, operator: Operator, team: Tenant) -> None:
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


def test_what_is_gone_is_forgotten(place: Place, operator: Operator, team: Tenant, monkeypatch: Any) -> None:
    """The cache beside the operator's own: its object_caches are empty when the jobs are gone."""
    monkeypatch.setenv("KUBECONFIG", str(place.release.kubeconfig))
    cache = Cache()
    with watching(cache):
        for n in range(5):
            team.submit(f"short-{n}", Life(running=0.5))
        wait_for(lambda: sum(key.namespace == team.name for key in cache.jobs) == 5, 20, "the jobs to be seen")
        for n in range(5):
            team.wait(f"short-{n}", "Succeeded")
        assert len(shelved(cache)) > 0
        for job in place.requests.items(JOBS.replace("/namespaces/{}", "")):
            place.requests.ask("DELETE", f"{JOBS.format(job['metadata']['namespace'])}/{job['metadata']['name']}")
        wait_for(lambda: not cache.jobs and not shelved(cache) and not cache.ray_job_owners, 20, "all to be forgotten")


def shelved(cache: Cache) -> list[object]:
    """Owners of whatever is kept."""
    object_caches = (cache.ray_jobs, cache.pods, cache.preflights, cache.workloads)
    return [owner for objects in object_caches for owner in objects._views]


@contextmanager
def watching(cache: Cache) -> Iterator[None]:
    """The operator's handlers with ``cache``, in a thread of their own. Nothing is reconciled."""
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
