"""The requests that a reconciliation sends to the API server."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from promptintern_operator.cache import Cache, Owner
from promptintern_operator.kube import RequestFailed
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.reconcile import Reconciler
from promptintern_operator.settings import DefaultStorage, Settings

from tests.unit.operator.builders import JOB_UID, pod, preflight, ray_job
from tests.unit.operator.fake_kube import FakeKube, job_body, view_of_job

KEY, OWNER = Key("team-a", "small"), Owner("team-a", JOB_UID)
DEPENDENTS = ["ServiceAccount", "Role", "ConfigMap", "NetworkPolicy", "RoleBinding"]
SETTINGS = Settings(default_storage=DefaultStorage(uri="s3://platform/runs"))


class World:
    """A cache that a test fills, and one reconciliation."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.kube, self.cache = FakeKube(), Cache()
        self.cache.jobs[KEY] = view_of_job(job_body(status))

    def reconcile(self) -> list[str]:
        """Reconcile once and return the requests."""

        async def main() -> None:
            await Reconciler(self.kube, self.cache, Workqueue(), SETTINGS).reconcile(KEY)  # type: ignore[arg-type]

        self.kube.requests, self.kube.events = [], []
        asyncio.run(main())
        return self.kube.requests

    def check_succeeds(self) -> None:
        """Let the check succeed that was created, or one that this process created before."""
        uid = self.kube.objects.get(("Job", "small-check-1"), {"metadata": {"uid": "check-1"}})["metadata"]["uid"]
        self.cache.created[OWNER].add(uid)
        self.cache.preflights.put(OWNER, uid, preflight(succeeded=True, uid=uid))

    def config_map(self) -> dict[str, Any]:
        """Return the only ConfigMap."""
        (body,) = (body for (kind, _), body in self.kube.objects.items() if kind == "ConfigMap")
        return body

    def event_reasons(self) -> list[str]:
        """Return the reasons of the Events of the last reconciliation."""
        return [event["reason"] for event in self.kube.events]


def checking(ago: float = 30) -> dict[str, Any]:
    """Return the status of a job whose check began ``ago`` seconds ago."""
    since = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()
    condition = {"type": "Accepted", "status": "Unknown", "reason": "Checking", "message": "it is being checked"}
    return {"phase": "Checking", "conditions": [condition | {"lastTransitionTime": since, "observedGeneration": 1}]}


def running(outcome: str | None = None) -> dict[str, Any]:
    """Return the status of a job whose first attempt runs, or has ended."""
    now = datetime.now(UTC).isoformat()
    accepted = {"type": "Accepted", "status": "True", "reason": "Valid", "message": "well", "observedGeneration": 1}
    attempt = {"number": 1, "rayJobName": "small-a1", "startedAt": now}
    ended = {"outcome": outcome, "finishedAt": now} if outcome else {}
    return {"startTime": now, "conditions": [accepted | {"lastTransitionTime": now}], "attempts": [attempt | ended]}


def test_a_check_is_preceded_by_its_dependents() -> None:
    world = World({})
    requests = world.reconcile()
    assert sorted(requests[:-1]) == sorted(["status", *(f"create {kind}" for kind in DEPENDENTS)])
    assert requests[-1] == "create Job"
    assert world.reconcile() == ["status"], "the uid of the check is recorded"
    assert world.kube.status["checkUID"] == world.kube.objects["Job", "small-check-1"]["metadata"]["uid"]
    assert world.reconcile() == [], "written and created objects are cached before the watches deliver them"


def test_the_first_attempt_reuses_the_dependents_of_the_check() -> None:
    world = World({})
    world.reconcile()
    world.check_succeeds()
    assert world.reconcile() == ["status", "create RayJob"]
    assert world.event_reasons() == ["Valid", "Starting"]


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (checking(ago=3600), "somebody had time to delete it"),
        (checking(), "another process began the check, and may have stopped before all was there"),
        (running(), "the operator stopped between deciding and doing"),
        (running(outcome="Suspended"), "it is another attempt"),
    ],
)
def test_otherwise_missing_dependents_are_created_again(status: dict[str, Any], why: str) -> None:
    world = World(status)
    world.check_succeeds()
    created = [what for what in world.reconcile() if what.startswith("create")]
    assert sorted(created[:-1]) == sorted(f"create {kind}" for kind in DEPENDENTS), why
    assert created[-1] == "create RayJob"
    assert created.index("create Role") < created.index("create RoleBinding")


def test_a_check_does_not_wait_for_rights_but_an_attempt_does() -> None:
    world = World({})
    world.kube.gates["Role"] = asyncio.Event()

    async def main() -> None:
        reconciler = Reconciler(world.kube, world.cache, Workqueue(), SETTINGS)  # type: ignore[arg-type]
        await reconciler.reconcile(KEY)
        assert ("Job", "small-check-1") in world.kube.objects
        assert ("Role", "promptintern-small") not in world.kube.objects
        world.check_succeeds()
        attempt = asyncio.create_task(reconciler.reconcile(KEY))
        for _ in range(20):
            await asyncio.sleep(0)
        assert [a["rayJobName"] for a in world.kube.status["attempts"]] == ["small-a1"]
        assert ("RayJob", "small-a1") not in world.kube.objects
        world.kube.gates["Role"].set()
        await attempt
        assert world.kube.requests[-2:] == ["create RoleBinding", "create RayJob"]

    asyncio.run(main())


def test_rights_that_could_not_be_granted_are_granted_for_the_attempt() -> None:
    world = World({})
    world.kube.refuse = _no("RoleBinding")
    assert "create Job" in world.reconcile()
    world.check_succeeds()
    with pytest.raises(RequestFailed):
        world.reconcile()
    assert ("RayJob", "small-a1") not in world.kube.objects
    world.kube.refuse = lambda _: None
    assert "create RoleBinding" in world.reconcile()
    assert world.kube.requests[-1] == "create RayJob"


def test_the_grant_of_a_job_that_is_gone_is_forgotten() -> None:
    world = World({})
    world.reconcile()
    assert list(world.cache.grants) == [OWNER]
    world.cache.remove_job(KEY)
    assert world.cache.grants == {}


def test_an_outdated_plan_changes_no_object_and_starts_no_check() -> None:
    world = World({})
    policy = world.kube.put(
        {
            "kind": "NetworkPolicy",
            "metadata": {
                "name": "promptintern-small",
                "ownerReferences": [{"kind": "PromptInternJob", "name": "small", "uid": JOB_UID, "controller": True}],
            },
            "spec": {"of": "a newer operator"},
        }
    )

    async def outdated(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(0)
        raise RequestFailed("the object has been modified", status=409, reason="Conflict")

    world.kube.apply_job_status = outdated  # type: ignore[method-assign]
    world.reconcile()
    assert policy["spec"] == {"of": "a newer operator"}
    assert ("Job", "small-check-1") not in world.kube.objects
    assert world.event_reasons() == []


def test_a_status_that_is_refused_is_no_denial_of_the_check() -> None:
    world = World({})

    async def refused(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(0)
        raise RequestFailed("status is forbidden", status=403, reason="Forbidden")

    world.kube.apply_job_status = refused  # type: ignore[method-assign]
    with pytest.raises(RequestFailed, match="status is forbidden"):
        world.reconcile()
    assert not world.cache.denials
    assert ("Job", "small-check-1") not in world.kube.objects


def test_events_are_recorded_after_the_actions() -> None:
    """Other jobs wait for the actions, so the Events must not delay the creation of the RayJob."""
    world = World({})
    world.reconcile()
    world.check_succeeds()
    created_before: list[bool] = []
    record: Callable[..., Any] = world.kube.record_event

    async def recorded(event: Any) -> None:
        created_before.append(("RayJob", "small-a1") in world.kube.objects)
        await record(event)

    world.kube.record_event = recorded  # type: ignore[method-assign]
    world.reconcile()
    assert created_before == [True, True]


def _no(kind: str) -> Callable[[str], None]:
    def refuse(wanted: str) -> None:
        if wanted == kind:
            raise RequestFailed("not now", status=503)

    return refuse


def test_events_are_recorded_even_if_an_action_fails() -> None:
    world = World(checking())
    world.check_succeeds()
    world.kube.refuse = _no("RayJob")
    with pytest.raises(RequestFailed):
        world.reconcile()
    assert world.event_reasons() == ["Valid", "Starting"]
    world.kube.refuse = lambda _: None
    assert world.reconcile()[-1] == "create RayJob"
    assert world.event_reasons() == [], "once"


def test_an_object_is_deleted_once() -> None:
    world = World(running())
    world.check_succeeds()
    world.cache.created[OWNER].add("ray-job-1")
    world.cache.ray_jobs.put(OWNER, "ray-job-1", ray_job(deployment="Complete", job_status="SUCCEEDED"))
    world.cache.pods.put(OWNER, "head", pod())
    assert world.reconcile() == ["status", "delete jobs"]
    assert world.reconcile() == []


def test_a_newer_job_that_the_watch_delivered_meanwhile_is_kept() -> None:
    world = World({})
    newer = view_of_job(job_body({}, version=7))
    write: Callable[..., Any] = world.kube.apply_job_status

    async def written(*args: Any, **more: Any) -> Any:
        world.cache.jobs[KEY] = newer
        return await write(*args, **more)

    world.kube.apply_job_status = written  # type: ignore[method-assign]
    world.reconcile()
    assert world.cache.jobs[KEY] is newer


def test_a_job_that_this_operator_cannot_parse_reports_it() -> None:
    """The job has fields of a newer CRD, which this version does not know."""
    world = World({})
    body = world.cache.jobs[KEY].body() or {}
    newer = {**body, "spec": {**body["spec"], "quantum": {"bits": 5}}}
    world.cache.jobs[KEY] = view_of_job(newer)
    assert world.reconcile() == ["status"]
    assert world.kube.condition("Accepted")[:2] == ("False", "Unsupported")
    assert "spec.quantum" in world.kube.condition("Accepted")[2]
    assert world.event_reasons() == ["Unsupported"]
    world.cache.jobs[KEY] = view_of_job({**newer, "status": world.kube.status})
    assert world.reconcile() == [], "it is reported once"


def test_a_job_keeps_the_storage_that_it_was_accepted_with() -> None:
    """Its checkpoints are there, even if the chart's default changes."""
    world = World({})
    world.reconcile()
    world.check_succeeds()
    world.reconcile()
    assert world.kube.status["storage"] == {"uri": "s3://platform/runs"}
    moved = Settings(default_storage=DefaultStorage(uri="s3://elsewhere/runs", secret_name="other"))
    again = World({**running(outcome="Suspended"), "storage": world.kube.status["storage"]})
    again.check_succeeds()

    async def main() -> None:
        await Reconciler(again.kube, again.cache, Workqueue(), moved).reconcile(KEY)  # type: ignore[arg-type]

    asyncio.run(main())
    attempt = json.dumps(again.kube.objects["RayJob", "small-a2"])
    config = again.config_map()["data"]["job.json"]
    assert "other" not in attempt
    assert "s3://platform/runs" in config
    assert "elsewhere" not in config


@pytest.mark.parametrize(
    "training",
    [
        {"stages": [{"index": 0, "rate": 1, "shots": 0, "promptTokens": 1, "startedAt": "2025-01-01T00:00:00+99:99"}]},
        {"stages": [{"index": "none"}]},
        {"term": -1},
        {"invented": True},
    ],
)
def test_an_invalid_report_of_the_head_pod_stops_no_suspension(training: dict[str, Any]) -> None:
    """The head pod runs a tenant's code. An older CRD accepts reports that cannot be parsed."""
    world = World(running() | {"training": training})
    world.cache.created[OWNER].add("ray-job-1")
    world.cache.ray_jobs.put(OWNER, "ray-job-1", ray_job(name="small-a1"))
    body = world.cache.jobs[KEY].body() or {}
    world.cache.jobs[KEY] = view_of_job({**body, "spec": {**body["spec"], "suspend": True}})
    assert "delete rayjobs" in world.reconcile()


def test_an_invalid_report_does_not_excuse_an_invalid_job() -> None:
    world = World({"training": {"term": -1}})
    body = world.cache.jobs[KEY].body() or {}
    world.cache.jobs[KEY] = view_of_job({**body, "spec": {**body["spec"], "quantum": 1}})
    assert world.reconcile() == ["status"]
    assert "spec.quantum" in world.kube.condition("Accepted")[2]


def test_a_large_job_is_fetched_for_each_reconciliation() -> None:
    world = World({})
    body = world.cache.jobs[KEY].body() or {}
    world.cache.jobs[KEY] = replace(world.cache.jobs[KEY], packed=None)
    world.kube.objects["PromptInternJob", "small"] = body
    requests = world.reconcile()
    assert requests[0] == "get promptinternjobs"
    assert "status" in requests


def test_a_large_job_that_is_gone_is_left_alone() -> None:
    world = World({})
    world.cache.jobs[KEY] = replace(world.cache.jobs[KEY], packed=None)
    assert world.reconcile() == ["get promptinternjobs"]


def test_an_account_of_somebody_else_gets_no_rights() -> None:
    world = World({})
    account = {"kind": "ServiceAccount", "metadata": {"name": "promptintern-small", "namespace": "team-a"}}
    world.kube.put(account)
    requests = world.reconcile()
    assert "create Role" not in requests
    assert "create RoleBinding" not in requests
    assert world.cache.denials[OWNER].reason == "NameTaken"


def test_an_annotation_during_the_check_changes_nothing_that_pods_read() -> None:
    """Anybody may annotate a job while it is checked, for example to ask for a retry that does nothing yet."""
    world = World({})
    world.reconcile()
    name = world.config_map()["metadata"]["name"]
    body = world.cache.jobs[KEY].body() or {}
    body["metadata"]["annotations"] = {"promptintern.dev/retry": "please", "argocd.argoproj.io/tracking-id": "x"}
    world.cache.jobs[KEY] = view_of_job(body)
    world.check_succeeds()
    assert world.reconcile() == ["status", "create RayJob"]
    head = world.kube.objects["RayJob", "small-a1"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "job", "configMap": {"name": name}} in head["volumes"]
    assert world.config_map()["metadata"]["name"] == name


def test_an_attempt_whose_job_text_differs_from_that_of_the_check_gets_its_config_map() -> None:
    """The operator was upgraded during the check, so that the trainer's image is another one."""
    world = World({})
    world.reconcile()
    world.check_succeeds()
    upgraded = SETTINGS.model_copy(update={"trainer_image": "promptintern/trainer:next"})

    async def main() -> None:
        await Reconciler(world.kube, world.cache, Workqueue(), upgraded).reconcile(KEY)  # type: ignore[arg-type]

    asyncio.run(main())
    head = world.kube.objects["RayJob", "small-a1"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "job", "configMap": {"name": world.config_map()["metadata"]["name"]}} in head["volumes"]


@pytest.mark.parametrize("is_written", [False, True], ids=["status unchanged", "status written"])
def test_a_change_of_the_job_after_the_plan_protects_it_from_its_ttl(is_written: bool) -> None:
    """The user may start an ended job again. The deletion names the version from which it was planned."""
    ended = running(outcome="Succeeded")
    ended |= {"phase": "Succeeded", "completionTime": "2026-01-02T03:04:05Z"}
    world = World(ended)
    if not is_written:
        world.reconcile()  # the operator completes the status that is written above
        ended = world.kube.status

    def body(version: int) -> dict[str, Any]:
        document = job_body(ended, version=version)
        document["spec"]["ttlSecondsAfterFinished"] = 1
        return document

    world.cache.jobs[KEY] = view_of_job(body(version=5))

    async def main() -> None:
        watch_delivers = asyncio.create_task(deliver())
        await Reconciler(world.kube, world.cache, Workqueue(), SETTINGS).reconcile(KEY)  # type: ignore[arg-type]
        await watch_delivers

    async def deliver() -> None:
        world.cache.jobs[KEY] = view_of_job(body(version=9))

    world.kube.requests = []
    asyncio.run(main())
    assert world.kube.requests == (["status"] if is_written else []) + ["delete promptinternjobs"]
    assert world.kube.deleted_version == ("6" if is_written else "5")
