"""A tenant cannot stop or blind the operator with objects that are hard to parse, large, or half invalid.

The objects are created by a user who has rights in one namespace only, as on a shared cluster.
"""

import json
import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.client import wait_for
from tests.integration.operator.conftest import place_or_skip
from tests.integration.operator.kuberay import Check, Life
from tests.integration.operator.place import Place, Tenant
from tests.integration.operator.process import Operator
from tests.integration.operator.requests import JOBS, PODS, PREFLIGHTS, RAY_JOBS, Body, Refused, Requests
from tests.unit.api.documents import small_job, with_changes

OURS = {
    "app.kubernetes.io/managed-by": "promptintern-operator",
    "promptintern.dev/job": "poison",
    "promptintern.dev/job-uid": "00000000-0000-0000-0000-000000000001",
}
OWNER = {
    "apiVersion": "promptintern.dev/v1alpha1",
    "kind": "PromptInternJob",
    "name": "poison",
    "uid": "00000000-0000-0000-0000-000000000001",
    "controller": True,
}
POD = {"containers": [{"name": "a", "image": "b"}], "restartPolicy": "Never"}
FIELDS = {"pruned": "f:a", "skipped": "f:" + "a" * 40}
"""The name of each nested field in an object that is read without its deep parts, and in one that is skipped."""
DEPTH = 2_000
"""The depth of the nesting. Parsers in Python follow about 1,000 levels, and the API server allows 10,000. The server's
time grows with the square of the depth, and it drops requests after a minute."""
QUICK = 20.0
"""The time in seconds that an undisturbed job may take from its creation to its end."""
KINDS = {"promptinternjobs", "pods", "jobs", "rayjobs"}
RULES = [
    {"apiGroups": [""], "resources": ["pods", "configmaps"], "verbs": ["*"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
    {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["*"]},
    {"apiGroups": ["promptintern.dev"], "resources": ["promptinternjobs"], "verbs": ["*"]},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An API server of its own, because hostile objects would disturb the tests' own clients in other files."""
    yield from place_or_skip(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def operator(place: Place) -> Iterator[Operator]:
    """One operator for all tests of this file; none of them may end it."""
    process = place.operator("operator-hostile")
    process.start()
    process.wait_until_leading(40)
    yield process
    assert process.alive
    assert process.stop() == 0
    assert not [line for line in process.text().splitlines() if "Traceback" in line]


def tenant_of(place: Place, namespace: str) -> Requests:
    """Return the requests of a user who may do everything with the watched kinds, in this namespace only."""
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    place.requests.ask("POST", f"{rbac}/roles", {"metadata": {"name": "tenant"}, "rules": RULES})
    binding = {
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": f"user of {namespace}"}],
    }
    place.requests.ask("POST", f"{rbac}/rolebindings", binding)
    authority = place.server.control_plane.authority
    pair = authority.issue(f"client-{namespace}", user=f"user of {namespace}")
    context = ssl.create_default_context(cafile=str(authority.own.certificate))
    context.load_cert_chain(str(pair.certificate), str(pair.key))
    return Requests(place.server.url, context)


def poison(requests: Requests, path: str, body: Body, field: str) -> None:
    """Create an object whose managedFields nest deeper than Python's parser follows."""
    created = requests.ask("POST", path, body)
    fields = f'{{"{field}":' * DEPTH + "{}" + "}" * DEPTH
    entry = {
        "manager": "x",
        "operation": "Update",
        "apiVersion": created["apiVersion"],
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": "FIELDS",
    }
    patch = json.dumps({"metadata": {"managedFields": [entry]}}).replace('"FIELDS"', fields)
    requests.ask_raw("PATCH", f"{path}/{body['metadata']['name']}", patch.encode(), "application/merge-patch+json")


def poisons(namespace: str) -> Iterator[tuple[str, Body]]:
    """Yield an object of every kind that a tenant can create and the operator watches, with the path of its kind."""
    meta: Body = {"name": "poison", "namespace": namespace, "labels": OURS, "ownerReferences": [OWNER]}
    job = with_changes(small_job(), {"spec.suspend": True})
    yield JOBS.format(namespace), job | {"metadata": {"name": "poison"}}
    yield PODS.format(namespace), {"metadata": meta, "spec": POD}
    yield PREFLIGHTS.format(namespace), {"metadata": meta, "spec": {"suspend": True, "template": {"spec": POD}}}
    yield (
        RAY_JOBS.format(namespace),
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": meta, "spec": {"suspend": True}},
    )


@pytest.mark.parametrize("what", FIELDS)
def test_deep_objects_of_every_kind_disturb_nobody(place: Place, operator: Operator, team: Tenant, what: str) -> None:
    other, later = place.namespace(), place.namespace()
    hostile = tenant_of(place, team.name)
    for path, body in poisons(team.name):
        poison(hostile, path, body, FIELDS[what])
    other.submit("good", Life())
    other.wait("good", "Succeeded", QUICK)
    if what == "pruned":
        team.wait("poison", "Suspended", QUICK)
        assert skipped(operator) == 0, "each is handled without its deep parts"
    else:
        assert skipped(operator) >= 4
        assert {line["kind"] for line in operator.log_lines("object skipped") if line.get("name") == "poison"} == KINDS
    for _ in range(2):  # all objects are listed again
        assert operator.stop() == 0
        operator.start()
        operator.wait_until_leading(40)
    later.submit("good", Life())
    later.wait("good", "Succeeded", QUICK)
    if what == "pruned":
        hostile.merge(f"{JOBS.format(team.name)}/poison", {"spec": {"suspend": False}})
        team.wait("poison", "Succeeded", QUICK)
        assert skipped(operator) == 0


def skipped(operator: Operator) -> float:
    """Return how many objects were skipped since the operator was started."""
    assert operator.total("promptintern_api_requests_total") > 0, "its metrics can be read"
    return operator.total("promptintern_skipped_objects_total")


def test_dense_pods_neither_delay_others_nor_fill_the_memory(place: Place, operator: Operator, team: Tenant) -> None:
    """Each pod has 1 MiB in the API server, and six times as much as JSON, in which < is written as \\u003c."""
    hostile, other, before = tenant_of(place, team.name), place.namespace(), operator.rss_mib
    env = [{"name": "A", "value": "<" * 1_000_000}]
    for number in range(20):
        pod = {"containers": [{"name": "a", "image": "b", "env": env}], "imagePullSecrets": [{}] * 1000}
        meta = {"name": f"dense-{number}", "labels": OURS}
        hostile.ask("POST", PODS.format(team.name), {"metadata": meta, "spec": pod})
    for _ in range(2):
        other.submit("good", Life())
        other.wait("good", "Succeeded", QUICK)
        assert operator.rss_mib < before + 100
        other.delete("good")
        wait_for(lambda: other.find("good") is None, 20, "the job to go")
        assert operator.stop() == 0
        operator.start()
        operator.wait_until_leading(40)
    for number in range(20):
        hostile.ask("DELETE", f"{PODS.format(team.name)}/dense-{number}")


def test_a_deep_affinity_is_refused(place: Place, operator: Operator, team: Tenant) -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"a": deep}
    job = with_changes(small_job(), {"spec.compute.affinity": {"nodeAffinity": deep}})
    with pytest.raises(Refused, match="unknown field") as refused:
        tenant_of(place, team.name).ask("POST", f"{JOBS.format(team.name)}?fieldValidation=Strict", job)
    assert refused.value.status == 400


@pytest.mark.parametrize("bad", ["2025-01-01T00:00:00+99:99", "2025-02-31T00:00:00Z", "9999-12-31T23:59:59Z", "now"])
def test_the_head_pod_cannot_report_a_time_that_nobody_can_parse(
    place: Place, operator: Operator, team: Tenant, bad: str
) -> None:
    """A zone of +99:99 once passed the schema, but no parser: suspension and deadlines did nothing any more."""
    team.submit("lies", suspend=True)
    stage = {"index": 0, "rate": 1, "shots": 0, "promptTokens": 1, "startedAt": bad}
    with pytest.raises(Refused, match="startedAt"):
        place.requests.merge(f"{team.path('lies')}/status", {"status": {"training": {"stages": [stage]}}})


def test_large_jobs_are_not_kept(place: Place, operator: Operator, team: Tenant) -> None:
    """Fifty jobs of the largest allowed size, with letters that Python stores in four bytes each."""
    hostile, other = tenant_of(place, team.name), place.namespace()
    before = operator.rss_mib
    size = (262_144 - 40) // 4
    for number in range(50):
        letters = "".join(chr(0x1F300 + (index * 7 + number) % 700) for index in range(size))
        template = "{examples}{query}" + letters
        job = with_changes(small_job(), {"spec.suspend": True, "spec.prompt.template": template})
        hostile.ask("POST", JOBS.format(team.name), job | {"metadata": {"name": f"large-{number}"}})
    wait_for(lambda: team.status(f"large-{number}").get("phase") == "Suspended", 60, "the last large job to be seen")
    assert operator.rss_mib < before + 60
    assert operator.stop() == 0
    operator.start()
    operator.wait_until_leading(40)
    other.submit("good", Life())
    other.wait("good", "Succeeded", QUICK)
    assert operator.rss_mib < before + 60
    hostile.merge(f"{JOBS.format(team.name)}/large-7", {"spec": {"suspend": False}})
    team.wait("large-7", "Succeeded", QUICK)


def test_a_job_above_the_bound_is_refused(place: Place, operator: Operator, team: Tenant) -> None:
    template = "{examples}{query}" + "€" * (262_144 // 3)
    with pytest.raises(Refused, match="at most 262,144 bytes in UTF-8"):
        job = with_changes(small_job(), {"spec.prompt.template": template})
        tenant_of(place, team.name).ask("POST", JOBS.format(team.name), job)


def forged(team: Tenant, job: str, name: str, **more: Any) -> Body:
    """Return an object with the labels and the controller of a real job."""
    uid = (team.find(job) or {})["metadata"]["uid"]
    labels = {**OURS, "promptintern.dev/job": job, "promptintern.dev/job-uid": uid}
    owner = {**OWNER, "name": job, "uid": uid}
    return {"metadata": {"name": name, "labels": labels, "ownerReferences": [owner], **more}}


def uid_of(place: Place, path: str) -> str | None:
    """Return the uid of an object, or None if it does not exist."""
    found = place.requests.find(path)
    return found["metadata"]["uid"] if found else None


def test_a_self_made_check_is_deleted_and_never_believed(place: Place, operator: Operator, team: Tenant) -> None:
    team.submit("trick", suspend=True)
    team.wait("trick", "Suspended", QUICK)
    hostile, path = tenant_of(place, team.name), PREFLIGHTS.format(team.name)
    annotations = {"promptintern.dev/generation": "2"}
    body = forged(team, "trick", "trick-check-2", annotations=annotations) | {"spec": {"template": {"spec": POD}}}
    body["spec"]["template"]["metadata"] = {"labels": body["metadata"]["labels"]}
    theirs = hostile.ask("POST", path, body)["metadata"]["uid"]
    wait_for(lambda: uid_of(place, f"{path}/trick-check-2") != theirs, QUICK, "its end")
    hostile.ask("POST", path, body)
    place.kuberay.checks["trick-check-2"] = Check(findings='[{"where": "spec.x", "message": "is wrong"}]')
    team.change("trick", suspend=False)
    team.wait("trick", "Refused", QUICK)
    own = place.requests.ask("GET", f"{path}/trick-check-2")
    assert own["metadata"]["uid"] == team.status("trick")["checkUID"]
    assert own["spec"]["template"]["spec"]["containers"][0]["name"] == "check"


def test_a_self_made_attempt_is_deleted_and_never_believed(place: Place, operator: Operator, team: Tenant) -> None:
    team.submit("false", suspend=True)
    team.wait("false", "Suspended", QUICK)
    hostile, path = tenant_of(place, team.name), RAY_JOBS.format(team.name)
    ray_job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": {"suspend": True}}
    theirs = hostile.ask("POST", path, forged(team, "false", "false-a1") | ray_job)["metadata"]["uid"]
    team.change("false", suspend=False)
    status = team.wait("false", "Succeeded", QUICK)
    assert status["attempts"][0]["rayJobUID"] not in (theirs, None)
    assert len(status["attempts"]) == 1


def test_a_config_map_that_somebody_replaced_starts_no_attempt(place: Place, operator: Operator, team: Tenant) -> None:
    team.submit("firm", Life(ends="never"), Life())
    team.wait("firm", "Training", QUICK)
    hostile = tenant_of(place, team.name)
    path = f"/api/v1/namespaces/{team.name}/configmaps/{team.status('firm')['configMap']}"
    with pytest.raises(Refused, match="immutable"):
        hostile.merge(path, {"data": {"job.json": "{}"}})
    body = hostile.ask("GET", path)
    team.change("firm", suspend=True)
    team.wait("firm", "Suspended", QUICK)
    hostile.ask("DELETE", path)
    meta = {name: body["metadata"][name] for name in ("name", "labels", "ownerReferences")}
    other = {"metadata": meta, "data": {"job.json": body["data"]["job.json"].replace("s3://", "s3://theirs-")}}
    hostile.ask("POST", path.rpartition("/")[0], other)
    team.change("firm", suspend=False)
    assert "was not written by the operator" in team.wait_for_condition("firm", "ClusterReady", "NameTaken")
    hostile.ask("DELETE", path)
    team.wait("firm", "Succeeded", 60)
    assert hostile.ask("GET", path)["data"] == body["data"]


_DYING = """
import sys
from promptintern_operator import main, watch_health

async def fail(plural, chunks):
    async for chunk in chunks:
        raise RecursionError("maximum recursion depth exceeded")
        yield b""

{stubborn}
watch_health.reduce_stream = fail
main.main()
"""
_STUBBORN = """
import asyncio
import kopf
spawn = kopf.spawn_tasks

async def stay():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def spawn_with_stubborn(**more):
    return [*await spawn(**more), asyncio.create_task(stay())]

kopf.spawn_tasks = spawn_with_stubborn
"""


@pytest.mark.parametrize("stubborn", ["", _STUBBORN], ids=["as it is", "with a task that does not end"])
def test_the_process_ends_when_kopf_does(place: Place, team: Tenant, stubborn: str) -> None:
    """Otherwise the process would stay alive and do nothing until the liveness probe fails."""
    program = [sys.executable, "-c", _DYING.format(stubborn=stubborn)]
    process = place.operator("operator-dying", program=program, leader_election=False)
    process.start()
    team.submit("any", suspend=True)

    def has_ended_after_a_change() -> bool:
        team.change("any", activeDeadlineSeconds=int(time.time()) % 10_000 + 1)
        return not process.alive

    wait_for(has_ended_after_a_change, 60, "the process to end")
    assert process.process.returncode == 1
    assert "maximum recursion depth exceeded" in process.text()
