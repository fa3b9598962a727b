"""What the API server of a Kubernetes answers when it refuses: a Status object."""

import json
from typing import Any


def parse_status(text: str | bytes | None) -> dict[str, Any]:
    """The object in the body of an answer; empty if there was none, or something else."""
    try:
        document = json.loads(text or "")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
