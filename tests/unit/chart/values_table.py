"""The table of values in docs/chart.md, generated from the comments of values.yaml."""

import json
import re
from typing import Any

from tests.unit.chart.conftest import CHART, DEFAULTS, SCHEMA, leaves

_KEY = re.compile(r"^( *)(\w+):")


def comments() -> dict[tuple[str, ...], str]:
    """Return the comment above each name of values.yaml, by the path of the name."""
    result: dict[tuple[str, ...], str] = {}
    path: list[str] = []
    pending: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.strip().startswith("# -- ") or not line.strip():
            pending = []
        elif line.strip().startswith("#"):
            pending.append(line.strip().lstrip("# "))
        elif key := _KEY.match(line):
            path = [*path[: len(key[1]) // 2], key[2]]
            result[tuple(path)] = " ".join(pending)
            pending = []
    return result


def table() -> str:
    """Return the table, with one row for each value."""
    texts = comments()
    rows = ["| Value | Default | Description |", "|---|---|---|"]
    for path, default in leaves(SCHEMA, DEFAULTS).items():
        text = texts.get(path, "")
        rows.append(f"| `{'.'.join(path)}` | {_default(default)} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def _default(value: Any) -> str:
    return "" if value in ("", [], {}) else f"`{json.dumps(value) if not isinstance(value, str) else value}`"
