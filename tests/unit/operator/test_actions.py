"""Reconciliations against an API server that is a dict: the actions, and the conditions if an action is denied."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from promptintern_operator.cache import Cache, Owner
from promptintern_operator.kube import RequestFailed
from promptintern_operator.queue import Key, Workqueue
from promptintern_operator.reconcile import Reconciler
from promptintern_operator.settings import DefaultStorage, Settings
from promptintern_operator.views import preflight_view, ray_job_view

from tests.unit.operator.builders import JOB_UID
from tests.unit.operator.fake_kube import Body, FakeKube, job_body, view_of_job

SETTINGS = Settings(default_storage=DefaultStorage(uri="s3://all/runs"))
KEY, OWNER = Key("team-a", "small"), Owner("team-a", JOB_UID)


class Place:
    """A reconciler and its job."""

    def __init__(self) -> None:
        self.kube, self.queue = FakeKube(), Workqueue()
        self.restart()
        self.generation = 1
        self.rows = ""
        """The URI of the training rows, or "" for that of the small job."""

    def restart(self) -> None:
        """Start a new process, whose watches have delivered nothing yet."""
        self.cache = Cache()
        self.reconciler = Reconciler(self.kube, self.cache, self.queue, SETTINGS)  # type: ignore[arg-type]

    async def reconcile(self) -> None:
        """Reconcile once, after the watch delivered the last status."""
        body = job_body(self.kube.status, generation=self.generation)
        if self.rows:
            body["spec"]["data"]["train"] = {"uri": self.rows}
        self.cache.jobs[KEY] = view_of_job(body)
        await self.reconciler.reconcile(KEY)
        self.queue.forget(KEY)

    def pass_time(self) -> None:
        """Let the backoff of the denied action pass."""
        denial = self.cache.denials[OWNER]
        self.cache.denials[OWNER] = replace(denial, at=denial.at - timedelta(seconds=60))

    def check_takes_long(self) -> None:
        """Let the check take so long that its dependents may be gone."""
        for condition in self.kube.status["conditions"]:
            began = datetime.fromisoformat(condition["lastTransitionTime"])
            condition["lastTransitionTime"] = (began - timedelta(hours=1)).isoformat()

    def check_succeeds(self) -> None:
        check = self.kube.objects["Job", "small-check-1"]
        check["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
        self.cache.preflights.put(OWNER, check["metadata"]["uid"], preflight_view(check))


def config_maps(place: Place) -> list[Body]:
    return [body for (kind, _), body in place.kube.objects.items() if kind == "ConfigMap"]


def refusing(kind: str, status: int, message: str) -> Callable[[str], None]:
    def refuse(wanted: str) -> None:
        if wanted == kind:
            raise RequestFailed(
                f"POST /apis/x: {status} {message}", status=status, reason="Forbidden", server_message=message
            )

    return refuse


def foreign(kind: str, name: str, **meta: Any) -> Body:
    return {"kind": kind, "metadata": {"name": name, "namespace": "team-a", **meta}}


def run(story: Callable[[Place], Any]) -> None:
    async def play() -> None:
        await story(Place())

    asyncio.run(play())


def test_a_job_is_checked_and_then_run() -> None:
    async def story(place: Place) -> None:
        await place.reconcile()
        place.check_succeeds()
        await place.reconcile()
        kinds = {kind for kind, _ in place.kube.objects}
        assert kinds == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap", "NetworkPolicy", "Job", "RayJob"}

    run(story)


def test_a_quota_that_denies_the_check_is_reported_at_once_until_it_is_raised() -> None:
    async def story(place: Place) -> None:
        place.kube.refuse = refusing("Job", 403, 'jobs.batch "small-check-1" is forbidden: exceeded quota: few')
        await place.reconcile()
        await place.reconcile()
        status, reason, message = place.kube.condition("Accepted")
        assert (status, reason) == ("Unknown", "QuotaExceeded")
        assert "exceeded quota: few" in message
        assert "/apis/" not in message, "users do not know our requests"
        assert [(e["type"], e["reason"]) for e in place.kube.events] == [
            ("Normal", "Checking"),
            ("Warning", "QuotaExceeded"),
        ]
        place.kube.refuse = lambda _: None
        place.pass_time()
        await place.reconcile()
        await place.reconcile()
        assert place.kube.condition("Accepted")[1] == "Checking"
        assert place.cache.denials == {}

    run(story)


@pytest.mark.parametrize("kind", ["RayJob", "NetworkPolicy"])
def test_a_policy_that_denies_the_attempt_is_reported_at_once(kind: str) -> None:
    async def story(place: Place) -> None:
        await place.reconcile()
        place.check_takes_long()
        place.check_succeeds()
        place.kube.objects.pop(("NetworkPolicy", "promptintern-small"))  # somebody removed it
        place.kube.refuse = refusing(kind, 403, 'admission webhook "w" denied the request: no')
        await place.reconcile()
        await place.reconcile()
        assert place.kube.condition("ClusterReady")[:2] == ("False", "CreateFailed")
        assert 'admission webhook "w" denied the request: no' in place.kube.condition("ClusterReady")[2]

    run(story)


def test_an_attempt_starts_with_the_network_policy_of_the_current_settings() -> None:
    """The settings may have changed since the check, for example the namespace of KubeRay."""

    async def story(place: Place) -> None:
        await place.reconcile()
        place.check_takes_long()
        place.check_succeeds()
        policy = place.kube.objects["NetworkPolicy", "promptintern-small"]
        expected = policy["spec"]
        policy["spec"] = {**expected, "ingress": []}
        await place.reconcile()
        await place.reconcile()
        assert ("RayJob", "small-a1") in place.kube.objects
        assert place.kube.objects["NetworkPolicy", "promptintern-small"]["spec"] == expected

    run(story)


def test_a_transient_error_is_left_to_the_workqueue() -> None:
    async def story(place: Place) -> None:
        place.kube.refuse = refusing("Job", 503, "not now")
        with pytest.raises(RequestFailed):
            await place.reconcile()
        assert place.cache.denials == {}

    run(story)


def test_a_transient_error_between_denials_does_not_reset_their_count() -> None:
    async def story(place: Place) -> None:
        place.kube.refuse = refusing("Job", 403, "exceeded quota")
        await place.reconcile()
        place.pass_time()
        place.kube.refuse = refusing("Job", 503, "not now")
        with pytest.raises(RequestFailed):
            await place.reconcile()
        place.kube.refuse = refusing("Job", 403, "exceeded quota")
        await place.reconcile()
        assert place.cache.denials[OWNER].times == 2

    run(story)


@pytest.mark.parametrize("kind", ["ServiceAccount", "NetworkPolicy"])
def test_a_foreign_object_is_neither_changed_nor_trusted(kind: str) -> None:
    async def story(place: Place) -> None:
        theirs = place.kube.put(foreign(kind, "promptintern-small", labels={"mine": "yes"}))
        before = str(theirs)
        await place.reconcile()
        await place.reconcile()
        assert place.kube.condition("Accepted")[:2] == ("Unknown", "NameTaken")
        assert f"{kind} promptintern-small" in place.kube.condition("Accepted")[2]
        assert str(place.kube.objects[kind, "promptintern-small"]) == before
        assert ("Job", "small-check-1") not in place.kube.objects
        del place.kube.objects[kind, "promptintern-small"]
        place.pass_time()
        await place.reconcile()
        assert ("Job", "small-check-1") in place.kube.objects

    run(story)


@pytest.mark.parametrize("kind", ["Role", "RoleBinding"])
def test_foreign_rights_are_neither_changed_nor_used(kind: str) -> None:
    """A check needs no rights, so it is created; the attempt waits."""

    async def story(place: Place) -> None:
        theirs = place.kube.put(foreign(kind, "promptintern-small", labels={"mine": "yes"}))
        before = str(theirs)
        await place.reconcile()
        place.check_succeeds()
        await place.reconcile()
        await place.reconcile()
        assert place.kube.condition("ClusterReady")[:2] == ("False", "NameTaken")
        assert f"{kind} promptintern-small" in place.kube.condition("ClusterReady")[2]
        assert str(place.kube.objects[kind, "promptintern-small"]) == before
        assert ("RayJob", "small-a1") not in place.kube.objects
        del place.kube.objects[kind, "promptintern-small"]
        place.pass_time()
        await place.reconcile()
        assert ("RayJob", "small-a1") in place.kube.objects

    run(story)


@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        (None, "NameTaken"),
        ({"kind": "Deployment", "name": "small", "uid": "other", "controller": True}, "NameTaken"),
        ({"kind": "PromptInternJob", "name": "small", "uid": JOB_UID}, "NameTaken"),
        ({"kind": "PromptInternJob", "name": "small", "uid": "other", "controller": True}, "EarlierJobDeleting"),
    ],
)
@pytest.mark.parametrize("kind", ["RayJob", "ConfigMap"])
def test_an_attempt_waits_until_its_names_are_free(kind: str, owner: Body | None, reason: str) -> None:
    async def story(place: Place) -> None:
        await place.reconcile()
        place.check_takes_long()
        place.check_succeeds()
        name = "small-a1" if kind == "RayJob" else place.kube.status["configMap"]
        place.kube.put(foreign(kind, name, ownerReferences=[owner] if owner else []))
        await place.reconcile()
        await place.reconcile()
        assert place.kube.condition("ClusterReady")[:2] == ("False", reason)
        assert place.cache.ray_jobs.by_owner(OWNER) == ()

    run(story)


def test_a_changed_spec_gets_another_config_map_and_loses_the_former() -> None:
    async def story(place: Place) -> None:
        await place.reconcile()
        (former,) = config_maps(place)
        assert place.kube.status["configMap"] == former["metadata"]["name"]
        assert former["immutable"]
        place.generation, place.rows = 2, "file:///other.jsonl"
        await place.reconcile()
        (current,) = config_maps(place)
        assert place.kube.status["configMap"] == current["metadata"]["name"]
        assert current["data"] != former["data"]

    run(story)


def test_a_config_map_that_somebody_else_wrote_is_not_used() -> None:
    """It names the job as its controller, and it has the right name, but another content, or one that may change."""

    async def story(place: Place) -> None:
        await place.reconcile()
        (own,) = config_maps(place)
        forged = {**own, "data": {"job.json": "{}"}}
        for theirs in (forged, {**own, "immutable": False}):
            place.kube.objects.pop(("Job", "small-check-1"), None)
            place.restart()
            place.kube.status = {}
            place.kube.put(theirs)
            await place.reconcile()
            await place.reconcile()
            assert place.kube.condition("Accepted")[:2] == ("Unknown", "NameTaken")
            assert "was not written by the operator" in place.kube.condition("Accepted")[2]
            assert ("Job", "small-check-1") not in place.kube.objects

    run(story)


def test_annotations_that_the_spec_no_longer_has_are_removed() -> None:
    async def story(place: Place) -> None:
        await place.reconcile()
        identity = place.kube.objects["ServiceAccount", "promptintern-small"]["metadata"]
        identity["annotations"] = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/before"}
        place.generation = 2
        await place.reconcile()
        assert identity["annotations"] == {}

    run(story)


def test_the_owner_of_a_new_ray_job_is_cached_before_its_watch_delivers_it() -> None:
    async def story(place: Place) -> None:
        await place.reconcile()
        place.check_succeeds()
        await place.reconcile()
        uid = place.kube.objects["RayJob", "small-a1"]["metadata"]["uid"]
        assert place.cache.homes[Owner("team-a", uid)].key == KEY

    run(story)


@pytest.mark.parametrize("kind", ["Job", "RayJob"])
def test_an_object_that_the_operator_did_not_create_is_deleted_and_never_believed(kind: str) -> None:
    """Its name, labels and controller are right, and it claims success; all of that can be forged."""

    async def story(place: Place) -> None:
        await place.reconcile()
        if kind == "RayJob":
            place.check_succeeds()
            await place.reconcile()
        name = {"Job": "small-check-1", "RayJob": "small-a1"}[kind]
        forged = place.kube.put(place.kube.objects.pop((kind, name)))
        forged["status"] = {
            "conditions": [{"type": "Complete", "status": "True"}],
            "jobDeploymentStatus": "Complete",
            "jobStatus": "SUCCEEDED",
        }
        place.restart()
        if kind == "Job":
            place.cache.preflights.put(OWNER, forged["metadata"]["uid"], preflight_view(forged))
        else:
            place.cache.ray_jobs.put(OWNER, forged["metadata"]["uid"], ray_job_view(forged))
        await place.reconcile()
        assert "completionTime" not in place.kube.status
        assert ("startTime" in place.kube.status) == (kind == "RayJob")
        current = place.kube.objects[kind, name]
        assert current["metadata"]["uid"] != forged["metadata"]["uid"], "the operator creates its own"

    run(story)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [({"app.kubernetes.io/managed-by": "promptintern-operator"}, "EarlierJobDeleting"), ({}, "NameTaken")],
)
def test_an_object_whose_name_was_taken_in_between_is_not_adopted(labels: dict[str, str], reason: str) -> None:
    """The watch has not yet delivered the other object, or never will, because it lacks the label."""

    async def story(place: Place) -> None:
        await place.reconcile()
        place.check_succeeds()
        owner = {"kind": "PromptInternJob", "name": "small", "uid": JOB_UID, "controller": True}
        place.kube.put(foreign("RayJob", "small-a1", ownerReferences=[owner], labels=labels))
        await place.reconcile()
        await place.reconcile()
        assert place.kube.condition("ClusterReady")[:2] == ("False", reason)
        assert "was not created by this operator" in place.kube.condition("ClusterReady")[2]
        assert place.cache.ray_jobs.by_owner(OWNER) == ()

    run(story)


def test_what_an_earlier_process_recorded_is_believed() -> None:
    async def story(place: Place) -> None:
        await place.reconcile()
        place.check_succeeds()
        await place.reconcile()
        await place.reconcile()
        ray_job = place.kube.objects["RayJob", "small-a1"]
        assert place.kube.status["attempts"][0]["rayJobUID"] == ray_job["metadata"]["uid"]
        assert place.kube.status["checkUID"] == place.kube.objects["Job", "small-check-1"]["metadata"]["uid"]
        place.restart()
        place.cache.ray_jobs.put(OWNER, ray_job["metadata"]["uid"], ray_job_view(ray_job))
        place.kube.requests = []
        await place.reconcile()
        assert place.kube.requests == []

    run(story)


def test_a_restart_does_not_repeat_a_check_that_runs() -> None:
    async def story(place: Place) -> None:
        await place.reconcile()
        await place.reconcile()
        check = place.kube.objects["Job", "small-check-1"]
        place.restart()
        place.cache.preflights.put(OWNER, check["metadata"]["uid"], preflight_view(check))
        place.kube.requests = []
        await place.reconcile()
        assert place.kube.requests == []

    run(story)
