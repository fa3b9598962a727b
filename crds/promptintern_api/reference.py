"""docs/api.md: the same models as tables, one per object."""

import json
from collections.abc import Iterator
from typing import Any

from promptintern_api.job import GROUP, KIND, VERSION
from promptintern_api.schema import RULES, Schema, definitions

_HEAD = f"""\
<!-- Generated from crds/promptintern_api by `promptintern-crd --write`. Change the models. -->

# {KIND}, {GROUP}/{VERSION}

Every field of a job, for `promptintern run` and for `kubectl apply` alike. `kubectl explain {KIND.lower()}.spec`
shows the same texts.

- A field without a default is required where it says so and may be left out elsewhere. `null` says that it is left out.
- The API server writes the defaults into the stored object, so a later release with other defaults changes no job
  that is there already.
- A field that is not listed here is refused: by `promptintern`, and by the API server for `kubectl apply`, which asks
  for it (`fieldValidation: Strict`). Other clients that do not ask get a warning, and the field is dropped.
- Numbers are numbers: `stages: "4"` is refused. `metadata.name` is a DNS-1035 label of at most 40 characters.
- After creation only `suspend`, `retries`, `activeDeadlineSeconds` and `ttlSecondsAfterFinished` may change.
- The CustomResourceDefinition needs Kubernetes 1.30 or newer.
"""


def reference() -> str:
    """The file's text."""
    known = definitions()
    places: dict[str, list[str]] = {}
    for name, place in _objects(KIND, "", known):
        places.setdefault(name, []).append(place)
    return "\n".join([_HEAD, *(_section(name, at, known) for name, at in places.items())])


def _objects(name: str, place: str, known: dict[str, Schema]) -> Iterator[tuple[str, str]]:
    """Every object below ``name`` with its place in a job, parents first."""
    yield name, place
    for field, node in known[name].get("properties", {}).items():
        for target, suffix in ((node.get("$ref"), ""), (node.get("items", {}).get("$ref"), "[]")):
            if target and known[target]["type"] == "object":
                yield from _objects(target, f"{place}.{field}{suffix}".removeprefix("."), known)


def _section(name: str, places: list[str], known: dict[str, Schema]) -> str:
    node = known[name]
    at = ", ".join(f"`{place}`" for place in places if place)
    required = node.get("required", [])
    lines = [
        f"## {name}",
        "",
        node["description"] + (f" At {at}." if at else ""),
        "",
        "| Field | Type | Default | Range | Description |",
        "| --- | --- | --- | --- | --- |",
        *(_row(field, value, field in required, known) for field, value in node["properties"].items()),
        "",
    ]
    checks = [rule for rule in node.get(RULES, []) if "oldSelf" not in rule["rule"]]
    if checks:
        lines += ["Checked across fields:", ""]
        lines += [f"- `{rule['fieldPath'].removeprefix('.')}`: {rule['message']}" for rule in checks]
        lines.append("")
    return "\n".join(lines)


def _row(field: str, node: Schema, required: bool, known: dict[str, Schema]) -> str:
    default = "required" if required else f"`{json.dumps(node['default'])}`" if "default" in node else ""
    text = node.get("description") or known[node["$ref"]]["description"]  # pydantic says the same thing once
    cells = (f"`{field}`", _type(node, known), default, _range(node), text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(node: Schema, known: dict[str, Schema]) -> str:
    if "$ref" in node:
        target = known[node["$ref"]]
        return _type(target, known) if "enum" in target else f"[{node['$ref']}](#{node['$ref'].lower()})"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "items" in node:
        return f"list of {_type(node['items'], known)}"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'], known)}"
    return "time" if node.get("format") == "date-time" else str(node["type"])


def _range(node: Schema) -> str:
    """Bounds in words: ``1 to 64``, ``> 0, at most 1``, ``1 to 8 characters``, a pattern."""
    parts = [
        _bounds(node.get("minimum"), node.get("maximum"), node, ""),
        _bounds(node.get("minLength"), node.get("maxLength"), {}, " characters"),
        _bounds(node.get("minItems"), node.get("maxItems"), {}, " items"),
        _bounds(node.get("minProperties"), node.get("maxProperties"), {}, " entries"),
        f"`{node['pattern']}`" if "pattern" in node else "",
        f"each {text}" if "items" in node and (text := _range(node["items"])) else "",
    ]
    return ", ".join(part for part in parts if part)


def _bounds(low: Any, high: Any, exclusive: Schema, unit: str) -> str:
    above, below = "exclusiveMinimum" in exclusive, "exclusiveMaximum" in exclusive
    if low is not None and high is not None and not (above or below):
        return f"{low:,.10g} to {high:,.10g}{unit}"
    parts = []
    if low is not None:
        parts.append(f"{'>' if above else 'at least'} {low:,.10g}{unit}")
    if high is not None:
        parts.append(f"{'<' if below else 'at most'} {high:,.10g}{unit}")
    return ", ".join(parts)
