"""The models as OpenAPI v3 structural schemas, which is the part of JSON Schema that Kubernetes takes."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from promptintern_api.base import ApiModel, Rule
from promptintern_api.job import GROUP, KIND, VERSION, PromptInternJob, PromptInternJobSpec
from promptintern_api.status import PromptInternJobStatus

Schema = dict[str, Any]

RULES = "x-kubernetes-validations"

_REF = "#/$defs/"
_BOUNDS = {
    "exclusiveMinimum": ("minimum", "exclusiveMinimum"),
    "exclusiveMaximum": ("maximum", "exclusiveMaximum"),
    # pydantic's words for a bound behind a BeforeValidator
    "ge": ("minimum", None),
    "le": ("maximum", None),
    "gt": ("minimum", "exclusiveMinimum"),
    "lt": ("maximum", "exclusiveMaximum"),
}
_ORDER = ("description", "type", "format", "enum", "default")
"""What comes first in a node; the bounds follow, then what lies below, then the rules."""
_LAST = ("required", "properties", "items", "additionalProperties", RULES)

_NAME_MESSAGE = (
    "must be a DNS-1035 label of at most 40 characters (a-z, 0-9, dashes; a letter first), since names of pods "
    "and services are made from it"
)


def definitions() -> dict[str, Schema]:
    """A schema per model and enum, by name. Where one holds another it says ``{"$ref": NAME, ...}``."""
    document = PromptInternJob.model_json_schema(schema_generator=_WithRules)
    nodes = {name: _structural(node) for name, node in document.pop("$defs").items()}
    return {PromptInternJob.__name__: _structural(document)} | nodes


def open_api_schema() -> Schema:
    """The schema of the whole object, as a CustomResourceDefinition holds it: without any ``$ref``."""
    known = definitions()
    properties = {
        "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
        "kind": {"type": "string", "description": f"{KIND}."},
        "metadata": {"type": "object"},  # Kubernetes' own; a schema for it may not say more
        "spec": _inlined(known[PromptInternJobSpec.__name__], known),
        "status": _inlined(known[PromptInternJobStatus.__name__], known),
    }
    return {
        "type": "object",
        "description": known[PromptInternJob.__name__]["description"],
        "required": ["spec"],
        "properties": properties,
        RULES: [
            _name_rule(known["Metadata"]["properties"]["name"]),
            *known[PromptInternJob.__name__][RULES],
        ],
    }


class _WithRules(GenerateJsonSchema):
    """pydantic's own generator, with the CEL half of each model's rules, and without defaults in the status."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        node = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, ApiModel) and model.rules:
            node[RULES] = [_validation(rule) for rule in model.rules]
        if model.__module__ == PromptInternJobStatus.__module__:
            # an empty list that the API server adds would belong to neither of the status's two writers
            for field in node["properties"].values():
                field.pop("default", None)
        return node


def _validation(rule: Rule) -> Schema:
    return {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}


def _name_rule(name: Schema) -> Schema:
    """What Metadata asks of ``metadata.name``; a schema of our own for metadata could not say it in words."""
    return {
        "rule": (
            f"self.metadata.name.size() <= {name['maxLength']} && self.metadata.name.matches('{name['pattern']}')"
        ),
        "message": f"metadata.name: {_NAME_MESSAGE}",
    }


def _structural(node: Schema) -> Schema:
    """``node`` of JSON Schema 2020-12 in the words of OpenAPI 3.0."""
    node = _without_null(node)
    node.pop("title", None)
    if node.get("additionalProperties") is False:
        del node["additionalProperties"]  # forbidden in a structural schema, where unknown fields are refused anyway
    elif node.get("additionalProperties") is True:
        del node["additionalProperties"]
        node["x-kubernetes-preserve-unknown-fields"] = True
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for word, (bound, exclusive) in _BOUNDS.items():
        if word in node:
            node[bound] = node.pop(word)
            if exclusive:
                node[exclusive] = True
    if node.get("type") == "integer":
        node["format"] = "int64"
    if "$ref" in node:
        node["$ref"] = node["$ref"].removeprefix(_REF)
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _structural(node[key])
    if "properties" in node:
        node["properties"] = {name: _structural(value) for name, value in node["properties"].items()}
    if isinstance(node.get("default"), dict):
        node["default"] = {}  # the fields' own defaults fill it
    return node


def _ordered(node: Schema) -> Schema:
    """``node`` with its keys in one order, so that the file reads alike everywhere."""
    middle = [key for key in sorted(node) if key not in _ORDER + _LAST]
    return {key: node[key] for key in (*_ORDER, *middle, *_LAST) if key in node}


def _without_null(node: Schema) -> Schema:
    """Optional fields are fields that may be left out: no union with null, no default of null."""
    node = dict(node)
    if "anyOf" in node:
        (kept,) = [option for option in node.pop("anyOf") if option != {"type": "null"}]
        node = kept | node
    if node.get("default", ...) is None:
        del node["default"]
    return node


def _inlined(node: Schema, known: dict[str, Schema]) -> Schema:
    node = dict(node)
    if "$ref" in node:
        node = _inlined(known[node.pop("$ref")], known) | node
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _inlined(node[key], known)
    if "properties" in node:
        node["properties"] = {name: _inlined(value, known) for name, value in node["properties"].items()}
    return _ordered(node)
