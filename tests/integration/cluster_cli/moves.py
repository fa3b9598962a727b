"""Writes to a job's status in place of the operator and the trainer, which do not run in these tests."""

import json
from typing import Any

from tests.cluster.api_server import ApiServer

NOW = "2026-01-02T03:04:05Z"


def set_status(server: ApiServer, namespace: str, name: str, **status: Any) -> None:
    """Merge ``status`` into the job's status."""
    patch = json.dumps({"status": status})
    server.kubectl(
        "patch", "pij", name, "--namespace", namespace, "--subresource", "status", "--type", "merge", "-p", patch
    )


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    """Return a condition."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def stage(index: int, **more: Any) -> dict[str, Any]:
    """Return a stage that has started."""
    return {"index": index, "rate": 0.5, "shots": 1, "promptTokens": 42.5, "startedAt": NOW} | more


def attempt(number: int, name: str, **more: Any) -> dict[str, Any]:
    """Return an attempt that has started."""
    return {"number": number, "rayJobName": f"{name}-a{number}", "startedAt": NOW, "headPods": 1} | more


def grant(server: ApiServer, namespace: str, user: str, *rules: dict[str, Any]) -> None:
    """Let ``user`` do what ``rules`` say in the namespace."""
    meta = {"name": user, "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    server.apply(
        [
            {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": list(rules)},
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": meta,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": user},
                "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
            },
        ]
    )


def rule(group: str, resources: list[str], *verbs: str) -> dict[str, Any]:
    """Return a rule of a Role."""
    return {"apiGroups": [group], "resources": resources, "verbs": list(verbs)}
