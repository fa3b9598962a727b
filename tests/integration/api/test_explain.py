"""`kubectl explain` shows every field with a description."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.api_server import ApiServer
from tests.unit.api.test_crd import NODES

Node = dict[str, Any]


@pytest.fixture(scope="module")
def published(server: ApiServer) -> Node:
    """The OpenAPI schema of our kind that the API server publishes and kubectl reads."""

    def find() -> Node | None:
        document = json.loads(server.kubectl("get", "--raw", "/openapi/v3/apis/promptintern.dev/v1alpha1"))
        schemas = document["components"]["schemas"]
        return next((node for name, node in schemas.items() if name.endswith(".PromptInternJob")), None)

    schema = server.wait_for(find, timeout=30, what="the OpenAPI document")
    assert schema is not None
    return schema


def described(node: Node, path: str) -> Iterator[tuple[str, str]]:
    """Yield every field below ``node`` with its description."""
    for field, child in node.get("properties", {}).items():
        yield f"{path}.{field}", child.get("description", "")
        yield from described(child, f"{path}.{field}")
    if "items" in node:
        yield from described(node["items"], f"{path}[]")


def test_every_field_is_published_and_described(published: Node) -> None:
    fields = dict(described(published, ""))
    ours = {path for path in NODES if path.startswith((".spec", ".status")) and path[-1] not in "]}"}
    assert ours <= set(fields) and len(ours) > 150
    assert [path for path in ours if len(fields[path]) < 4 or not fields[path].endswith(".")] == []


def test_explain_lists_every_field_of_the_spec(server: ApiServer) -> None:
    output = server.kubectl("explain", "pij.spec", "--recursive")
    listed = [line.split("\t")[0] for line in output.partition("FIELDS:\n")[2].splitlines() if "\t" in line]
    expected = [path.split(".")[2:] for path in NODES if path.startswith(".spec.") and path[-1] not in "]}"]
    assert sorted(field.strip() for field in listed) == sorted(parts[-1] for parts in expected)
    depth = {name.strip(): len(name) - len(name.lstrip()) for name in listed}
    assert depth["training"] < depth["lora"] < depth["targetModules"]
    assert "model\t<Object> -required-" in output and "enum: Linear, Exponential, InverseExponential" in output


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("pij", ["A PromptInternJob fine-tunes a base model", "spec\t<Object> -required-"]),
        ("pij.spec.training.lora.r", ["FIELD: r <integer>", "Rank of the adapter's matrices."]),
        ("pij.spec.schedule.curve", ["InverseExponential", "Linear falls evenly"]),
        ("pij.spec.storage.secretRef", ["AWS_ACCESS_KEY_ID", "name\t<string> -required-"]),
        ("pij.spec.prompt.template", ["{query}", "exactly once"]),
        ("pij.status.conditions", ["Conditions of the job, one for each type.", "lastTransitionTime"]),
    ],
)
def test_explaining_a_field(server: ApiServer, field: str, words: list[str]) -> None:
    output = " ".join(server.kubectl("explain", field).replace("\t", "\x00").split()).replace("\x00", "\t")
    assert all(word in output for word in words), output
