"""The manifest of a Kubernetes Event about a job."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from promptintern_api.contract import OPERATOR
from promptintern_api.kind import GROUP, KIND, VERSION

from promptintern_operator.plan import EventRecord
from promptintern_operator.queue import Key


def event_manifest(key: Key, *, uid: str, record: EventRecord, reporter: str) -> dict[str, Any]:
    """Return the manifest of an Event that reports ``record`` about the job at ``key``."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{key.name}.{uuid4().hex[:16]}", "namespace": key.namespace},
        "regarding": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "namespace": key.namespace,
            "name": key.name,
            "uid": uid,
        },
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": "Warning" if record.warning else "Normal",
        "reason": record.reason,
        "action": "Reconcile",
        "note": record.message[:1024],
        "reportingController": f"{GROUP}/{OPERATOR}",
        "reportingInstance": reporter[:128],
    }
