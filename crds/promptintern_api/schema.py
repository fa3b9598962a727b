"""Convert the models to OpenAPI v3 structural schemas, the part of JSON Schema that Kubernetes accepts."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from promptintern_api.base import ApiModel, Rule
from promptintern_api.job import PromptInternJob, PromptInternJobSpec
from promptintern_api.kind import GROUP, KIND, VERSION
from promptintern_api.status import PromptInternJobStatus
from promptintern_api.training_status import TrainingStatus

Schema = dict[str, Any]

RULES = "x-kubernetes-validations"

_REF = "#/$defs/"
_BOUNDS = {
    "exclusiveMinimum": ("minimum", "exclusiveMinimum"),
    "exclusiveMaximum": ("maximum", "exclusiveMaximum"),
    # pydantic's keywords for a bound behind a BeforeValidator
    "ge": ("minimum", None),
    "le": ("maximum", None),
    "gt": ("minimum", "exclusiveMinimum"),
    "lt": ("maximum", "exclusiveMaximum"),
}
_ORDER = ("description", "type", "format", "enum", "default")
"""The keys that come first in a schema. The bounds follow, and then the keys of ``_LAST``."""
_LAST = ("required", "properties", "items", "additionalProperties", RULES)

_STATUS_MODULES = (PromptInternJobStatus.__module__, TrainingStatus.__module__)

_NAME_MESSAGE = (
    "must be a DNS-1035 label of at most 40 characters (a-z, 0-9 and dashes, a letter first), because the names of "
    "pods and Services are derived from it"
)


def definitions() -> dict[str, Schema]:
    """Return the schema of each model and enum, by name. A schema refers to another by ``{"$ref": NAME, ...}``."""
    document = PromptInternJob.model_json_schema(schema_generator=_WithRules)
    nodes = {name: _structural(node) for name, node in document.pop("$defs").items()}
    return {PromptInternJob.__name__: _structural(document)} | nodes


def open_api_schema() -> Schema:
    """Return the schema of the whole object for a CustomResourceDefinition, without any ``$ref``."""
    schemas = definitions()
    properties = {
        "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
        "kind": {"type": "string", "description": f"{KIND}."},
        "metadata": {"type": "object"},  # A CRD may not describe the metadata further; the API server defines it.
        "spec": _inlined(schemas[PromptInternJobSpec.__name__], schemas),
        "status": _inlined(schemas[PromptInternJobStatus.__name__], schemas),
    }
    return {
        "type": "object",
        "description": schemas[PromptInternJob.__name__]["description"],
        "required": ["spec"],
        "properties": properties,
        RULES: [
            _name_rule(schemas["Metadata"]["properties"]["name"]),
            *schemas[PromptInternJob.__name__][RULES],
        ],
    }


class _WithRules(GenerateJsonSchema):
    """The schema generator of pydantic, extended by the CEL rules of each model and without defaults in the status."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        node = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, ApiModel) and model.rules:
            node[RULES] = [_validation(rule) for rule in model.rules]
        if model.__module__ in _STATUS_MODULES:
            # If the API server added an empty list by default, neither of the two writers of the status would own it.
            for field in node["properties"].values():
                field.pop("default", None)
        return node


def _validation(rule: Rule) -> Schema:
    return {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}


def _name_rule(name: Schema) -> Schema:
    """Return the rule for ``metadata.name``, whose message is clearer than a pattern in the schema would be."""
    return {
        "rule": (
            f"self.metadata.name.size() <= {name['maxLength']} && self.metadata.name.matches('{name['pattern']}')"
        ),
        "message": f"metadata.name: {_NAME_MESSAGE}",
    }


def _structural(node: Schema) -> Schema:
    """Convert the schema ``node`` from JSON Schema 2020-12 to OpenAPI 3.0."""
    node = _without_null(node)
    node.pop("title", None)
    if node.get("additionalProperties") is False:
        del node["additionalProperties"]  # forbidden in a structural schema, which refuses unknown fields anyway
    # A field of arbitrary JSON could nest deeper than a client can parse, and would have no schema here.
    assert node.get("additionalProperties") is not True, node
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for keyword, (bound, exclusive) in _BOUNDS.items():
        if keyword in node:
            node[bound] = node.pop(keyword)
            if exclusive:
                node[exclusive] = True
    if node.get("type") == "integer":
        node["format"] = "int64"
    if node.get("type") == "number" and node.get("minimum", 0) % 1:
        # For a whole number such as 0, the API server cuts the decimals of the bound, and so accepts it.
        bound = node["minimum"]
        node[RULES] = [{"rule": f"self >= {bound}", "message": f"should be greater than or equal to {bound}"}]
    if "$ref" in node:
        node["$ref"] = node["$ref"].removeprefix(_REF)
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _structural(node[key])
    if "properties" in node:
        node["properties"] = {name: _structural(value) for name, value in node["properties"].items()}
    if isinstance(node.get("default"), dict):
        node["default"] = {}  # filled by the defaults of its fields
    return node


def _ordered(node: Schema) -> Schema:
    """Return ``node`` with its keys in a fixed order, so that all parts of the CRD have the same order."""
    middle = [key for key in sorted(node) if key not in _ORDER + _LAST]
    return {key: node[key] for key in (*_ORDER, *middle, *_LAST) if key in node}


def _without_null(node: Schema) -> Schema:
    """Return ``node`` without its union with null and its default of null, since a field may simply be left out."""
    node = dict(node)
    if "anyOf" in node:
        (variant,) = [option for option in node.pop("anyOf") if option != {"type": "null"}]
        node = variant | node
    if node.get("default", ...) is None:
        del node["default"]
    return node


def _inlined(node: Schema, schemas: dict[str, Schema]) -> Schema:
    node = dict(node)
    if "$ref" in node:
        node = _inlined(schemas[node.pop("$ref")], schemas) | node
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _inlined(node[key], schemas)
    if "properties" in node:
        node["properties"] = {name: _inlined(value, schemas) for name, value in node["properties"].items()}
    return _ordered(node)
