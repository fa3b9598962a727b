"""The Status object with which a Kubernetes API server refuses a request."""

import json
from typing import Any


def parse_status(text: str | bytes | None) -> dict[str, Any]:
    """Return the JSON object in the body of a response, or an empty dict if the body contains none."""
    try:
        document = json.loads(text or "")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
