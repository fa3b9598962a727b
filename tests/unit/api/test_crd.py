"""The CustomResourceDefinition is up to date, structural, bounded and described."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from promptintern_api import crd
from promptintern_api.schema import RULES, Schema

from tests.unit.api.admission import SCHEMA, program, to_cel

ROOT = Path(__file__).parents[3]

ALLOWED = {
    "description", "type", "format", "enum", "default", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
    "required", "properties", "items", "additionalProperties", RULES, "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip
"""The keywords of a structural schema that we use. $ref, anyOf, title and nullable are not among them."""


def nodes(node: Schema = SCHEMA, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, node
    for field, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{field}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


NODES = dict(nodes())


def test_generated_files_are_fresh() -> None:
    assert crd.stale_files(ROOT) == [], "run: promptintern-crd --write"


def test_check_names_what_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--write", "--root", str(tmp_path)]) == 0
    assert crd.main(["--check", "--root", str(tmp_path)]) == 0
    (tmp_path / crd.CRD_FILE).write_text("old")
    shutil.rmtree(tmp_path / "docs")
    assert crd.main(["--check", "--root", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "promptinternjobs.promptintern.dev.yaml: is stale" in errors
    assert "docs/api.md: is stale" in errors


def test_it_prints_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main([]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == crd.custom_resource_definition()


def test_every_node_is_structural_and_every_property_is_described() -> None:
    for path, node in NODES.items():
        assert "type" in node, path
        assert set(node) <= ALLOWED, path
        assert not ("properties" in node and "additionalProperties" in node), path
        if path.startswith((".spec", ".status")) and not path.endswith(("[]", "{}")):
            assert node["description"].endswith("."), path


def test_lists_are_bounded_and_have_the_list_types_that_the_server_needs() -> None:
    lists = {path: node for path, node in NODES.items() if node["type"] == "array"}
    assert all("maxItems" in node for node in lists.values()), lists.keys()
    keys = {path: node.get("x-kubernetes-list-map-keys") for path, node in lists.items() if path.startswith(".status")}
    assert keys == {
        ".status.conditions": ["type"],
        ".status.attempts": ["number"],
        ".status.attempts[].pods": ["name"],
        ".status.training.stages": ["index"],
    }
    for path, (key,) in keys.items():
        item = NODES[f"{path}[]"]
        assert key in item["required"]
    assert NODES[".spec.evaluation.arms"]["x-kubernetes-list-type"] == "set"


def test_every_text_that_a_rule_reads_is_bounded() -> None:
    """The API server estimates the cost of CEL from the longest text and list that the schema allows."""
    checked = 0
    for path, node in NODES.items():
        for rule in node.get(RULES, []):
            for field in set(re.findall(r"self\.([A-Za-z]+(?:\.[A-Za-z]+)*)", rule["rule"])):
                parts = field.split(".")
                while parts and f"{path}.{'.'.join(parts)}" not in NODES:
                    parts.pop()  # the name of a function
                read = NODES[f"{path}.{'.'.join(parts)}"]
                checked += 1
                if read["type"] == "string":
                    assert "maxLength" in read or "enum" in read, (path, field)
    assert checked > 20


def test_every_rule_compiles_and_points_at_a_field() -> None:
    count = 0
    for path, node in NODES.items():
        for rule in node.get(RULES, []):
            program(rule["rule"])
            count += 1
            if "fieldPath" in rule:
                assert f"{path}{rule['fieldPath']}" in NODES
            elif node["type"] != "number":  # a number is itself the field
                assert rule["message"].startswith("metadata.name: ")
    assert count >= 25


def test_bounds_with_decimals_are_rules_too() -> None:
    """For whole numbers, the API server cuts the decimals of a bound."""
    bounds = {path: node for path, node in NODES.items() if node.get("type") == "number" and node.get("minimum", 0) % 1}
    assert ".spec.data.generate.temperature" in bounds
    for node in bounds.values():
        assert [rule["rule"] for rule in node[RULES]] == [f"self >= {node['minimum']}"]


def test_a_default_of_an_object_passes_its_rules_before_it_is_filled() -> None:
    """The API server validates a default as it is written, before it fills in the defaults inside it."""
    checked = 0
    for path, node in NODES.items():
        if node.get("default") == {}:
            for rule in node.get(RULES, []):
                assert program(rule["rule"]).evaluate({"self": to_cel({}, node)}), (path, rule)
                checked += 1
    assert checked > 5


def test_the_status_has_no_defaults() -> None:
    assert [path for path, node in NODES.items() if path.startswith(".status") and "default" in node] == []


def test_printer_columns_are_fields() -> None:
    version = crd.custom_resource_definition()["spec"]["versions"][0]
    columns = {column["name"]: column for column in version["additionalPrinterColumns"]}
    shown = [name for name, column in columns.items() if column["priority"] == 0]
    assert shown == ["Phase", "Reason", "Stage", "Tokens", "Score", "Verdict", "Age"]
    for name in set(columns) - {"Age"}:
        assert NODES[columns[name]["jsonPath"]]["type"] == columns[name]["type"]


def test_the_reference_has_a_row_for_every_field() -> None:
    text = (ROOT / crd.REFERENCE_FILE).read_text(encoding="utf-8")
    rows = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert {path.rpartition(".")[2] for path in NODES if path and path[-1] not in "]}"} <= rows
