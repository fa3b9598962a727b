"""Invariants of a job, which hold whatever happens around it."""

import functools
from typing import Any

from jsonschema import Draft4Validator
from promptintern_api.schema import Schema
from promptintern_operator.plan import DeleteJob, Plan, StartAttempt, StartPreflight

from tests.unit.api.admission import SCHEMA
from tests.unit.operator.simulation import World

Status = dict[str, Any]


def check_status(status: Status) -> None:
    """Check the invariants of one status."""
    problems = [f"{list(error.absolute_path)}: {error.message}" for error in _validator().iter_errors(status)]
    assert problems == []
    true = {c["type"] for c in status["conditions"] if c["status"] == "True"}
    assert not {"Succeeded", "Failed"} <= true
    assert ("completionTime" in status) == bool({"Succeeded", "Failed"} & true)
    numbers = [attempt["number"] for attempt in status["attempts"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all("outcome" in attempt for attempt in status["attempts"][:-1]), "only the newest attempt runs"
    if "completionTime" in status:
        assert all("outcome" in attempt for attempt in status["attempts"])
        assert not {"Training", "ClusterReady"} & true
    for attempt in status["attempts"]:
        assert ("outcome" in attempt) == ("finishedAt" in attempt)
        assert not ("outcome" in attempt and "activeSince" in attempt)


def check_change(before: Status, after: Status) -> None:
    """Check the invariants of two successive statuses."""
    previous = {c["type"]: c for c in before.get("conditions", [])}
    for condition in after["conditions"]:
        if (old := previous.get(condition["type"])) is not None:
            changed = condition["status"] != old["status"]
            assert changed or condition["lastTransitionTime"] == old["lastTransitionTime"]
            assert not changed or condition["lastTransitionTime"] >= old["lastTransitionTime"]
    older = {attempt["number"]: attempt for attempt in before.get("attempts", [])}
    newer = {attempt["number"]: attempt for attempt in after["attempts"]}
    assert older.keys() <= newer.keys()
    for number, attempt in older.items():
        if "outcome" in attempt:
            assert {k: v for k, v in attempt.items() if k != "pods"} == {
                k: v for k, v in newer[number].items() if k != "pods"
            }
        assert newer[number]["headPods"] >= attempt["headPods"]
    is_retried = before.get("handledRetry") != after.get("handledRetry")
    for name in ("startTime", *(() if is_retried else ("completionTime",))):
        assert name not in before or before[name] == after[name]


def check_budgets(world: World) -> None:
    """Check that no class of failure exceeds its budget, and that the last allowed failure ends the job."""
    retries = world.job.spec.retries
    first = world.status.get("retriedAfterAttempt", 0)
    outcomes = [attempt.get("outcome") for attempt in world.status["attempts"] if attempt["number"] > first]
    for outcome, allowed in (
        ("Application", retries.application),
        ("Infrastructure", retries.infrastructure),
        ("User", 0),
        ("Succeeded", 0),
    ):
        assert outcomes.count(outcome) <= allowed + 1
        if outcomes.count(outcome) == allowed + 1:
            assert world.is_over


def check_plan(result: Plan, *, was_over: bool) -> None:
    """Check that a job that has ended starts nothing, and that a job that goes on is not deleted."""
    starts = [action for action in result.actions if isinstance(action, StartAttempt | StartPreflight)]
    assert len(starts) <= 1
    assert len(set(result.actions)) == len(result.actions)
    assert not (starts and (was_over or "completionTime" in result.status))
    assert was_over or DeleteJob() not in result.actions


def check_world(world: World) -> None:
    """Check that at most one RayJob runs, and that only the head of the newest one may report."""
    assert len(world.living()) <= 1, [each.name for each in world.living()]
    head = world.status.get("currentHeadPodUID")
    assert head is None or world.heads[head] == world.status["rayJobName"]
    for attempt in world.status.get("attempts", []):
        heads = [uid for uid, name in world.heads.items() if name == attempt["rayJobName"]]
        assert attempt["headPods"] <= len(heads)


@functools.cache
def _validator() -> Draft4Validator:
    return Draft4Validator(_closed(SCHEMA["properties"]["status"]))


def _closed(node: Schema) -> Schema:
    """Return ``node`` with unknown fields forbidden."""
    node = dict(node)
    if "properties" in node:
        node["properties"] = {name: _closed(child) for name, child in node["properties"].items()}
        node["additionalProperties"] = False
    if "items" in node:
        node["items"] = _closed(node["items"])
    return node
