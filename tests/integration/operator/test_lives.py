"""Lives of jobs, from `kubectl apply` to their end."""

import json
from collections import Counter

import pytest

from tests.cluster.client import wait_for
from tests.integration.operator.kuberay import Check, Life
from tests.integration.operator.place import Place, Tenant
from tests.integration.operator.process import Operator
from tests.integration.operator.requests import CHILDREN, JOBS, PODS, PREFLIGHTS, Refused

FOR_EVER = Life(ends="never")


pytestmark = pytest.mark.usefixtures("operator")


def test_to_success(place: Place, team: Tenant) -> None:
    team.submit("good", Life(starting=0.5, running=0.5), compute__workers=2)
    status = team.wait("good", "Succeeded")

    assert team.created_ray_jobs("good") == {"good-a1": 1}
    assert [(a["number"], a["outcome"], a["headPods"]) for a in status["attempts"]] == [(1, "Succeeded", 1)]
    assert status["observedGeneration"] == 1 and status["startTime"] <= status["completionTime"]
    assert {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]} == {
        "Accepted": ("True", "Valid"),
        "ClusterReady": ("False", "Ended"),
        "Training": ("False", "Ended"),
        "Succeeded": ("True", "Succeeded"),
    }
    assert "currentHeadPodUID" not in status
    # Kopf wrote nothing, and nothing keeps the job from being deleted.
    job = team.find("good")
    assert job is not None
    assert not {"annotations", "finalizers"} & set(job["metadata"])
    assert {entry["manager"] for entry in job["metadata"]["managedFields"]} <= {
        "promptintern-operator",
        "Python-urllib",
    }
    # Each dependent names its owner, and is deleted with the job.
    uid = job["metadata"]["uid"]
    for kind in CHILDREN:
        for child in place.requests.items(kind.format(team.name), f"promptintern.dev/job-uid={uid}"):
            if kind != PODS:
                assert child["metadata"]["ownerReferences"][0]["uid"] == uid, child["metadata"]["name"]
    wait_for(lambda: not place.requests.items(PREFLIGHTS.format(team.name)), 10, "the check to be removed")


def test_each_transition_is_one_event(team: Tenant) -> None:
    team.submit("recorded", Life(starting=0.6, running=2))
    team.wait("recorded", "Succeeded")
    expected = {
        "Checking": 1,
        "Valid": 1,
        "Starting": 1,  # ClusterReady and Training
        "Ready": 1,
        "Running": 1,
        "Succeeded": 1,
    }
    wait_for(lambda: Counter(reason for reason, _ in team.events("recorded")) == expected, 10, "all Events")
    order = [reason for reason, _ in team.events("recorded")]
    assert order[:2] == ["Checking", "Valid"]
    assert order.index("Running") < order.index("Succeeded")


def test_refused_and_fixed(place: Place, team: Tenant) -> None:
    findings = [{"where": "spec.data.train.uri", "message": "s3://rows/train.jsonl:3: has no answer"}]
    place.kuberay.checks["wrong-check-1"] = Check(findings=json.dumps(findings))
    team.submit("wrong", Life())
    team.wait("wrong", "Refused")
    assert team.condition("wrong", "Accepted") == (
        "False",
        "Refused",
        "spec.data.train.uri: s3://rows/train.jsonl:3: has no answer",
    )
    assert team.ray_jobs() == []

    team.change("wrong", data={"train": {"uri": "s3://rows/fixed.jsonl"}})
    status = team.wait("wrong", "Succeeded")
    assert status["observedGeneration"] == 2
    assert all(c["observedGeneration"] == 2 for c in status["conditions"])
    checks = {name for kind, namespace, name in place.kuberay.seen_at if (kind, namespace) == ("Job", team.name)}
    assert checks == {"wrong-check-1", "wrong-check-2"}
    config = place.requests.ask("GET", f"/api/v1/namespaces/{team.name}/configmaps/{status['configMap']}")
    assert "fixed.jsonl" in config["data"]["job.json"]


def test_texts_that_yaml_writes_in_another_way(place: Place, team: Tenant) -> None:
    """Server-side apply parses YAML. A status with an emoji was once refused, again and again."""
    odd = "🚀\x7f\x85\u2028\ufeff\ufffe"
    place.kuberay.checks["odd-check-1"] = Check(findings=json.dumps([{"where": "data", "message": odd}]))
    team.submit("odd", Life(), storage={"uri": f"s3://{odd}"})
    team.wait("odd", "Refused")
    assert odd in team.condition("odd", "Accepted")[2]

    team.change("odd", prompt={"template": f"{{examples}}{{query}}{odd}"})
    status = team.wait("odd", "Succeeded")
    assert status["storage"]["uri"] == f"s3://{odd}"
    config = place.requests.ask("GET", f"/api/v1/namespaces/{team.name}/configmaps/{status['configMap']}")
    assert json.loads(config["data"]["job.json"])["spec"]["prompt"]["template"].endswith(odd)


def test_no_change_after_acceptance(team: Tenant) -> None:
    team.submit("firm", FOR_EVER)
    team.wait("firm", "Training")
    with pytest.raises(Refused, match="spec") as refused:
        team.change("firm", data={"train": {"uri": "s3://rows/other.jsonl"}})
    assert refused.value.status == 422
    team.change("firm", retries={"application": 3}, ttlSecondsAfterFinished=60)
    assert team.created_ray_jobs("firm") == {"firm-a1": 1}
    team.delete("firm")


def test_suspend_resume_delete(place: Place, team: Tenant) -> None:
    team.submit("pause", FOR_EVER, Life(ends="never"))
    team.wait("pause", "Training")
    head = team.status("pause")["currentHeadPodUID"]
    team.change("pause", suspend=True)
    team.wait("pause", "Suspended")
    assert team.ray_jobs() == [] and team.attempts("pause") == ["Suspended"]
    team.change("pause", suspend=False)
    status = team.wait("pause", "Training")
    assert status["rayJobName"] == "pause-a2" and status["currentHeadPodUID"] != head
    assert team.created_ray_jobs("pause") == {"pause-a1": 1, "pause-a2": 1}

    team.delete("pause")
    nothing_left = lambda: not any(place.requests.items(kind.format(team.name)) for kind in CHILDREN)  # noqa: E731
    wait_for(nothing_left, 20, "all that belonged to it to go")


def test_kuberay_stands_still_while_suspending(place: Place, team: Tenant) -> None:
    team.submit("held", FOR_EVER)
    team.wait("held", "Training")
    place.kuberay.stop()
    try:
        team.change("held", suspend=True)
        message = team.wait_for_condition("held", "Suspended", "Saving")
        wait_for(
            lambda: "KubeRay must be running" in team.condition("held", "Suspended")[2], 10, f"more than: {message}"
        )
        assert team.ray_jobs() == ["held-a1"]
    finally:
        place.kuberay.go_on()
    team.wait("held", "Suspended")
    assert team.ray_jobs() == []


def test_ttl_after_the_end(team: Tenant) -> None:
    team.submit("brief", Life(), ttlSecondsAfterFinished=1)
    team.wait("brief", "Succeeded")
    wait_for(lambda: team.find("brief") is None, 15, "it to be deleted")
    wait_for(lambda: team.ray_jobs() == [], 15, "its RayJob to go too")


def test_deadline(team: Tenant) -> None:
    team.submit("late", FOR_EVER, activeDeadlineSeconds=2)
    team.wait("late", "Failed")
    assert team.condition("late", "Failed")[1] == "DeadlineExceeded"
    assert team.attempts("late") == ["User"]
    wait_for(lambda: team.ray_jobs() == [], 15, "its RayJob to go")


def test_a_ray_job_that_kuberay_rejects(team: Tenant) -> None:
    team.submit("invalid", Life(ends="invalid"))
    team.wait("invalid", "Failed")
    status, _, message = team.condition("invalid", "Failed")
    assert status == "True" and "KubeRay refuses the RayJob: the RayJob is not as it should be" in message
    wait_for(lambda: team.ray_jobs() == [], 15, "its RayJob to go")


def test_retries_within_the_budget(team: Tenant) -> None:
    team.submit("shaky", Life(ends="crashes"), Life())
    team.wait("shaky", "Succeeded")
    assert team.attempts("shaky") == ["Application", "Succeeded"]
    team.submit("broken", Life(ends="crashes"), Life(ends="crashes"), Life())
    team.wait("broken", "Failed")
    assert team.attempts("broken") == ["Application", "Application"]
    assert team.condition("broken", "Failed")[1] == "RetriesExhausted"
    team.submit("refuses", Life(ends="refuses"), Life())
    team.wait("refuses", "Failed")
    assert team.attempts("refuses") == ["User"] and "row 3" in team.condition("refuses", "Failed")[2]


def test_a_queue_without_kueue(team: Tenant) -> None:
    team.submit("queued", FOR_EVER, labels={"kueue.x-k8s.io/queue-name": "nobody"})
    team.wait("queued", "Queued")
    assert team.condition("queued", "QuotaReserved")[:2] == ("False", "Pending")
    assert team.condition("queued", "ClusterReady")[1] == "Queued"
    team.delete("queued")


def test_a_job_recreated_under_the_same_name(team: Tenant) -> None:
    """The job is deleted and created at once, so the dependents of the first are in the way for a moment."""
    team.submit("again", FOR_EVER)
    team.wait("again", "Training")
    first = team.find("again")
    team.delete("again")
    team.submit("again", Life())
    status = team.wait("again", "Succeeded", 40)
    second = team.find("again")
    assert first and second and first["metadata"]["uid"] != second["metadata"]["uid"]
    assert len(status["attempts"]) == 1


def test_metrics(place: Place, team: Tenant, operator: Operator) -> None:
    team.submit("counted", Life())
    team.wait("counted", "Succeeded")
    names = {key[0] for key in operator.metrics()}
    assert names >= {
        "promptintern_jobs",
        "promptintern_jobs_ended_total",
        "promptintern_attempts_ended_total",
        "promptintern_attempt_failures_total",
        "promptintern_denials_total",
        "promptintern_reconciles_total",
        "promptintern_reconcile_seconds_bucket",
        "promptintern_queue_wait_seconds_bucket",
        "promptintern_queue_depth",
        "promptintern_first_ray_job_seconds_bucket",
        "promptintern_api_requests_total",
        "promptintern_leader",
        "promptintern_watch_silence_seconds",
    }
    jobs = place.requests.items(JOBS.replace("/namespaces/{}", ""))
    phases = Counter(
        ("promptintern_jobs", str(job["metadata"]["namespace"]), str(job["status"]["phase"])) for job in jobs
    )
    wait_for(
        lambda: {k: v for k, v in operator.metrics().items() if k[0] == "promptintern_jobs" and v} == dict(phases),
        20,
        f"jobs by namespace and phase: {phases}",
    )
    metrics = operator.metrics()
    assert metrics["promptintern_jobs_ended_total", team.name, "Succeeded"] == 1
    assert metrics["promptintern_attempts_ended_total", team.name, "Succeeded"] == 1
    assert metrics["promptintern_attempts_ended_total", team.name, "Infrastructure"] == 0
    assert metrics["promptintern_denials_total", team.name, "QuotaExceeded"] == 0
    forbidden = [key for key in operator.metrics() if key[0] == "promptintern_api_requests_total" and "403" in key]
    assert not forbidden, "the chart's rights are too few"
    assert operator.probe("/healthz") == operator.probe("/readyz") == 200


def test_a_refused_job_is_checked_again_on_request(place: Place, team: Tenant) -> None:
    """The Secret was wrong; the spec is right, and stays as it is."""
    place.kuberay.checks["secret-check-1"] = Check(findings='[{"where": "spec.storage", "message": "wrong key"}]')
    team.submit("secret", Life())
    team.wait("secret", "Refused")
    place.requests.merge(team.path("secret"), {"metadata": {"annotations": {"promptintern.dev/retry": "mended"}}})
    status = team.wait("secret", "Succeeded")
    assert status["handledRetry"] == "mended"
    assert status["observedGeneration"] == 1
    checks = {name for kind, namespace, name in place.kuberay.seen_at if (kind, namespace) == ("Job", team.name)}
    assert checks == {"secret-check-1", "secret-check-1-2"}


def test_a_failed_job_is_tried_again_on_request(place: Place, team: Tenant) -> None:
    team.submit("again", Life(ends="crashes"), Life(), retries={"application": 0})
    team.wait("again", "Failed")
    place.requests.merge(team.path("again"), {"metadata": {"annotations": {"promptintern.dev/retry": "mended"}}})
    team.wait("again", "Succeeded")
    assert team.attempts("again") == ["Application", "Succeeded"]
    assert {"Retried"} <= {reason for reason, _ in team.events("again")}
