"""A model in Python of what an API server does with an object of our CRD.

It fills in the defaults of the structural schema, validates the object (by draft 4 of JSON Schema, whose
``exclusiveMinimum: true`` is that of OpenAPI 3.0), refuses unknown fields as kubectl requests, requires the items of
sets to be unique, and evaluates the CEL rules in cel-python with the four functions of Kubernetes that our rules use.
The integration tests send the same documents to a real API server.
"""

import copy
import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import celpy
from celpy import celtypes
from celpy.adapter import json_to_cel
from jsonschema import Draft4Validator
from promptintern_api.crd import custom_resource_definition
from promptintern_api.schema import RULES, Schema

SCHEMA: Schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

_ENVIRONMENT = celpy.Environment()
_FUNCTIONS: dict[str, Any] = {
    "split": lambda text, separator: celtypes.ListType(map(celtypes.StringType, text.split(separator))),
    "isSorted": lambda items: celtypes.BoolType(all(a <= b for a, b in pairwise(items))),
    "sum": lambda items: sum(items, celtypes.IntType(0)),
    "indexOf": lambda text, piece: celtypes.IntType(text.find(piece)),
}


def refusals(document: dict[str, Any], old: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """Return the reasons to refuse ``document`` (as an update of ``old``, if given) as pairs of field and message."""
    document = with_defaults(document, SCHEMA)
    errors = [
        (_path([*error.absolute_path, *_child_field(error)]), error.message)
        for error in _validator().iter_errors(document)
    ]
    if errors:
        return errors
    return list(_broken_rules(document, with_defaults(old, SCHEMA) if old else None, SCHEMA, ""))


def with_defaults(value: Any, node: Schema) -> Any:
    """Return a copy of ``value`` without nulls and with the defaults below ``node``, parents first."""
    if isinstance(value, dict) and "properties" in node:
        value = {name: item for name, item in value.items() if item is not None or name not in node["properties"]}
        for field, child in node["properties"].items():
            if "default" in child and field not in value:
                value[field] = copy.deepcopy(child["default"])
            if field in value:
                value[field] = with_defaults(value[field], child)
    elif isinstance(value, list) and "items" in node:
        value = [with_defaults(item, node["items"]) for item in value]
    return value


@functools.cache
def _validator() -> Draft4Validator:
    return Draft4Validator(_strict(SCHEMA))


def _strict(node: Schema) -> Schema:
    """Return ``node`` with unknown fields refused, sets unique, and ``$`` matching only the end of text, as in Go."""
    node = {key: value for key, value in node.items() if key != "default"}
    if "properties" in node:
        node["properties"] = {field: _strict(child) for field, child in node["properties"].items()}
        node["additionalProperties"] = False
    if "items" in node:
        node["items"] = _strict(node["items"])
    if node.get("x-kubernetes-list-type") == "set":
        node["uniqueItems"] = True
    if "pattern" in node:
        node["pattern"] = node["pattern"].removesuffix("$") + r"\Z"
    return node


def _child_field(error: Any) -> list[str]:
    """Return the field that an error of its parent object is about."""
    if error.validator == "required":
        return [next(field for field in error.validator_value if field not in error.instance)]
    if error.validator == "additionalProperties":
        return [next(field for field in error.instance if field not in error.schema["properties"])]
    return []


def _broken_rules(value: Any, old: Any, node: Schema, path: str) -> Iterator[tuple[str, str]]:
    rules = [rule for rule in node.get(RULES, []) if old is not None or "oldSelf" not in rule["rule"]]
    names = {"self": to_cel(value, node), "oldSelf": to_cel(old, node)} if rules else {}
    for rule in rules:
        if not program(rule["rule"]).evaluate(names):
            yield f"{path}{rule.get('fieldPath', '')}".removeprefix("."), rule["message"]
    if isinstance(value, dict):
        for field, child in node.get("properties", {}).items():
            if field in value:
                before = old.get(field) if isinstance(old, dict) else None
                yield from _broken_rules(value[field], before, child, f"{path}.{field}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_rules(item, None, node.get("items", {}), f"{path}[{index}]")


@functools.cache
def program(rule: str) -> celpy.Runner:
    return _ENVIRONMENT.program(_ENVIRONMENT.compile(rule), functions=_FUNCTIONS)


def to_cel(value: Any, node: Schema) -> Any:
    """Convert ``value`` to CEL's types by the schema, in which 1 may be a double."""
    if isinstance(value, dict):
        properties, other = node.get("properties", {}), node.get("additionalProperties", {})
        return celtypes.MapType({celtypes.StringType(k): to_cel(v, properties.get(k, other)) for k, v in value.items()})
    if isinstance(value, list):
        return celtypes.ListType([to_cel(item, node.get("items", {})) for item in value])
    if node.get("type") == "number" and value is not None:
        return celtypes.DoubleType(value)
    return json_to_cel(value)


def _path(parts: list[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
