"""Generate the API reference, docs/api.md, with one table for each object of the API."""

import json
from collections.abc import Iterator
from typing import Any

from promptintern_api.kind import GROUP, KIND, VERSION
from promptintern_api.schema import RULES, Schema, definitions

_HEAD = f"""\
<!-- Generated from crds/promptintern_api by `promptintern-crd --write`. Change the models. -->

# {KIND}, {GROUP}/{VERSION}

This page describes every field of a job, for `promptintern run` and `kubectl apply` alike. (`promptintern run` also
accepts a plain path where the table requires a URI, and makes it a `file://` URI.)
`kubectl explain {KIND.lower()}.spec` shows the same descriptions.

- A field without a default may be left out unless its default column says `required`. A field that is `null` counts as
  left out.
- The API server writes the defaults into the stored object, so a later release with other defaults does not change
  existing jobs.
- `promptintern` refuses a field that is not listed here. The API server also refuses it for `kubectl apply`, which
  requests strict validation (`fieldValidation: Strict`). A client that does not request strict validation gets a
  warning, and the API server drops the field.
- A number in quotes, such as `stages: "4"`, is refused.
- Once a job has been accepted, only `suspend`, `retries`, `activeDeadlineSeconds` and `ttlSecondsAfterFinished` may
  change. Until then the whole spec may change.
- The operator and the trainer write `status`. [conditions.md](conditions.md) explains its phases, conditions and
  reasons.
- The CustomResourceDefinition needs Kubernetes 1.30 or newer.
"""


def api_reference() -> str:
    """Return the text of docs/api.md."""
    schemas = definitions()
    places: dict[str, list[str]] = {}
    for name, place in _objects(KIND, "", schemas):
        places.setdefault(name, []).append(place)
    return "\n".join([_HEAD, *(_section(name, at, schemas) for name, at in places.items())])


def _objects(name: str, place: str, schemas: dict[str, Schema]) -> Iterator[tuple[str, str]]:
    """Yield the object ``name`` and all objects nested in it, each with its path in a job, parents first."""
    yield name, place
    for field, node in schemas[name].get("properties", {}).items():
        for target, suffix in ((node.get("$ref"), ""), (node.get("items", {}).get("$ref"), "[]")):
            if target and schemas[target]["type"] == "object":
                yield from _objects(target, f"{place}.{field}{suffix}".removeprefix("."), schemas)


def _section(name: str, places: list[str], schemas: dict[str, Schema]) -> str:
    node = schemas[name]
    at = ", ".join(f"`{place}`" for place in places if place)
    required = node.get("required", [])
    lines = [
        f"## {name}",
        "",
        node["description"],
        "",
        *([f"Path: {at}", ""] if at else []),
        "| Field | Type | Default | Range | Description |",
        "| --- | --- | --- | --- | --- |",
        *(_row(field, value, field in required, schemas) for field, value in node["properties"].items()),
        "",
    ]
    checks = [rule for rule in node.get(RULES, []) if "oldSelf" not in rule["rule"]]
    if checks:
        lines += ["Rules across fields:", ""]
        lines += [f"- `{rule['fieldPath'].removeprefix('.')}`: {rule['message']}" for rule in checks]
        lines.append("")
    return "\n".join(lines)


def _row(field: str, node: Schema, required: bool, schemas: dict[str, Schema]) -> str:
    default = "required" if required else f"`{json.dumps(node['default'])}`" if "default" in node else ""
    text = node.get("description") or schemas[node["$ref"]]["description"]  # pydantic omits an equal description
    cells = (f"`{field}`", _type(node, schemas), default, _range(node), text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(node: Schema, schemas: dict[str, Schema]) -> str:
    if "$ref" in node:
        target = schemas[node["$ref"]]
        return _type(target, schemas) if "enum" in target else f"[{node['$ref']}](#{node['$ref'].lower()})"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "items" in node:
        return f"list of {_type(node['items'], schemas)}"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'], schemas)}"
    return "time" if node.get("format") == "date-time" else str(node["type"])


def _range(node: Schema) -> str:
    """Return the bounds in words, such as ``1 to 64`` or ``> 0, at most 1``, and the pattern if there is one."""
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
