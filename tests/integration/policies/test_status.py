"""Who may write which status fields. RBAC allows everybody here to write them, so only the policy decides."""

from typing import Any

import pytest
from promptintern_api.status import PromptInternJobStatus

from tests.integration.policies.conftest import RBAC, RBAC_GROUP, World, binding, job, may, person, trainer, uid

TIME = "2026-01-01T00:00:00Z"
CONDITION = {"type": "Training", "status": "True", "reason": "Made", "message": "up", "lastTransitionTime": TIME}
TRAINING = {"term": 1, "stages": [{"index": 0, "rate": 1.0, "shots": 3, "promptTokens": 900.5, "loss": 0.25}]}
ANOTHER: dict[str, Any] = {
    "phase": "Succeeded",
    "conditions": [CONDITION | {"type": "Succeeded"}],
    "observedGeneration": 7,
    "attempts": [{"number": 1, "rayJobName": "one-a1", "outcome": "Succeeded"}],
    "rayJobName": "one-a9",
    "currentHeadPodUID": "00000000-0000-0000-0000-000000000000",
    "checkHeldUpSince": TIME,
    "handledRetry": "again",
    "retriedAfterAttempt": 1,
    "retriedAfterCheck": 1,
    "startTime": "2026-01-02T00:00:00Z",
    "storage": {"uri": "s3://elsewhere/runs"},
    "configMap": "promptintern-one-0123456789abcdef",
    "checkUID": "00000000-0000-0000-0000-000000000001",
    "completionTime": TIME,
    "stage": "4/4",
    "tokens": 3,
    "reason": "Succeeded",
    "tokensBefore": 99,
    "verdict": "Internalized",
    "score": "1.000",
}
"""Another value for every field that the operator owns."""

EVERYBODY = "all-status"
HEAD, OLD, OTHER = "head of one", "former head of one", "head of two"


def let_all_patch(world: World) -> None:
    """Allow all ServiceAccounts of the tenant, in RBAC, to patch every status."""
    meta = {"name": EVERYBODY, "namespace": world.tenant}
    world.server.apply(
        [
            {
                "apiVersion": RBAC,
                "kind": "Role",
                "metadata": meta,
                "rules": [may("patch", "promptinternjobs/status", group="promptintern.dev")],
            },
            binding(
                meta,
                "Role",
                EVERYBODY,
                [{"kind": "Group", "apiGroup": RBAC_GROUP, "name": f"system:serviceaccounts:{world.tenant}"}],
            ),
        ]
    )


@pytest.fixture(scope="module")
def status_world(world: World) -> World:
    """Jobs `one`, whose head the operator named, and `two`, whose head it did not; all may patch every status."""
    person(world, "author", [may("create", "pods")])
    world.server.wait_for(
        lambda: world.create("author", job("one"), keep=True).status == 201, what="the author's rights"
    )
    assert world.create("author", job("two"), keep=True).status == 201
    trainer(world, "one", {HEAD: "one-head", OLD: "one-old-head"})
    trainer(world, "two", {OTHER: "two-head"})
    let_all_patch(world)
    world.server.wait_for(
        lambda: "denied request" in world.merge_status("author", "one", {"phase": "Failed"}).message,
        what="the policy of the status",
    )
    status = {
        "phase": "Training",
        "conditions": [CONDITION],
        "observedGeneration": 1,
        "attempts": [{"number": 1, "rayJobName": "one-a1", "startedAt": TIME}],
        "rayJobName": "one-a1",
        "currentHeadPodUID": uid(world, "one-head"),
        "startTime": TIME,
        "stage": "1/4",
        "tokens": 900.5,
        "score": "0.500",
    }
    answer = world.apply_status("operator", "one", status, "promptintern-operator")
    assert answer.status == 200, answer
    answer = world.apply_status(HEAD, "one", {"training": TRAINING}, "promptintern-trainer")
    assert answer.status == 200, answer
    return world


def test_the_operator_and_the_trainer_write_side_by_side(status_world: World) -> None:
    assert status_world.apply_status(
        HEAD, "one", {"training": TRAINING | {"progress": {"step": 3, "total": 9}}}, "promptintern-trainer"
    ).body["status"]["training"]["progress"] == {"step": 3, "total": 9}
    job = status_world.server.get("promptinternjob", "one", status_world.tenant)
    assert job is not None
    kept = {name: value for name, value in job["status"].items() if name != "training"}
    answer = status_world.apply_status("operator", "one", kept | {"stage": "2/4"}, "promptintern-operator")
    assert (answer.status, answer.body["status"]["stage"]) == (200, "2/4")
    assert answer.body["status"]["training"]["progress"] == {"step": 3, "total": 9}


NOBODY = "may be written only by the operator and by the head pod of this job"
NO_MORE = "may not be written by the head pod, except for status.training"
NOT_THE_HEAD = "may be written only with a token of the head pod that status.currentHeadPodUID names"
NOT_THE_OPERATOR = "status.training: may be written only by the head pod of this job, not by the operator"


@pytest.mark.parametrize(
    ("who", "name", "status", "refusal"),
    [
        (HEAD, "one", {"training": {"term": 2}}, None),
        (HEAD, "one", {"training": None}, None),
        (HEAD, "one", {"training": {"term": 2}, "phase": "Succeeded"}, NO_MORE),
        (HEAD, "one", {"phase": None}, NO_MORE),
        (HEAD, "one", {"conditions": []}, NO_MORE),
        (HEAD, "two", {"training": {"term": 2}}, NOBODY),
        (OLD, "one", {"training": {"term": 2}}, NOT_THE_HEAD),
        (OLD, "one", {"phase": "Failed"}, NO_MORE),
        ("one, no pod", "one", {"training": {"term": 2}}, NOT_THE_HEAD),
        (OTHER, "one", {"training": {"term": 2}}, NOBODY),
        (OTHER, "one", {"phase": "Failed"}, NOBODY),
        (OTHER, "two", {"training": {"term": 2}}, "names (none yet)"),
        ("two, no pod", "two", {"training": {"term": 2}}, "names (none yet)"),
        ("operator", "one", {"phase": "Succeeded"}, None),
        ("operator", "two", {"phase": "Queued"}, None),
        ("operator", "one", {"training": {"term": 2}}, NOT_THE_OPERATOR),
        ("operator", "one", {"training": None}, NOT_THE_OPERATOR),
        ("operator", "two", {"training": {"term": 1}}, NOT_THE_OPERATOR),
        ("author", "one", {"phase": "Succeeded"}, NOBODY),
        ("author", "one", {"training": {"term": 2}}, NOBODY),
    ],
)
def test_who_may_write_which_fields(
    status_world: World, who: str, name: str, status: dict[str, Any], refusal: str | None
) -> None:
    answer = status_world.merge_status(who, name, status)
    if refusal is None:
        assert answer.status == 200, answer
    else:
        assert answer.status == 403 and refusal in answer.message, answer


def test_there_is_another_value_for_every_field() -> None:
    fields = {field.alias for field in PromptInternJobStatus.model_fields.values()}
    assert set(ANOTHER) == fields - {"training"}


@pytest.mark.parametrize("field", ANOTHER)
def test_the_head_pod_cannot_write(status_world: World, field: str) -> None:
    for value in (ANOTHER[field], None):
        job = status_world.server.get("promptinternjob", "one", status_world.tenant)
        assert job is not None
        if value is None and field not in job["status"]:
            continue
        answer = status_world.merge_status(HEAD, "one", {field: value})
        assert answer.status == 403 and NO_MORE in answer.message, answer


def test_the_operator_can_write_every_field_but_training(status_world: World) -> None:
    assert status_world.merge_status("operator", "one", ANOTHER).status == 200


def test_an_administrator_may_repair_a_status(status_world: World) -> None:
    patch = '{"status": {"score": "0.250"}}'
    output = status_world.server.kubectl(
        "patch",
        "promptinternjob",
        "two",
        "-n",
        status_world.tenant,
        "--subresource=status",
        "--type=merge",
        "-p",
        patch,
    )
    assert "patched" in output


def test_without_the_test_s_own_role_rbac_refuses_already(status_world: World) -> None:
    server, tenant = status_world.server, status_world.tenant
    server.delete("rolebinding", EVERYBODY, tenant)
    try:
        server.wait_for(lambda: "cannot patch" in status_world.merge_status("author", "one", {"phase": "x"}).message)
        for who, name in ((OTHER, "one"), (HEAD, "two")):
            answer = status_world.merge_status(who, name, {"training": {"term": 2}})
            assert answer.status == 403 and "cannot patch resource" in answer.message, answer
        assert status_world.merge_status(HEAD, "one", {"training": {"term": 2}}).status == 200
    finally:
        let_all_patch(status_world)
