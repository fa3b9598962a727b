"""Parsing of the Status object that a Kubernetes API server returns when it refuses a request."""

import json
from typing import Any


def parse_status(text: str | bytes | None) -> dict[str, Any]:
    """Return the JSON object in ``text``, the body of a response, or an empty dict if ``text`` contains no object."""
    try:
        document = json.loads(text or "")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
