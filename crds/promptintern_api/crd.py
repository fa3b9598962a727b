"""`promptintern-crd`: write the CustomResourceDefinition and docs/api.md, or check that they are up to date."""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from promptintern_api.api_reference import api_reference
from promptintern_api.kind import GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from promptintern_api.schema import open_api_schema

CRD_FILE = f"crds/{PLURAL}.{GROUP}.yaml"
REFERENCE_FILE = "docs/api.md"
CHART_FILE = "charts/promptintern/files/crd.yaml"

_HEADER = "# Generated from crds/promptintern_api by `promptintern-crd --write`. Change the models.\n"
_COLUMNS = (
    ("Phase", "string", ".status.phase", "The state of the job in one word."),
    ("Reason", "string", ".status.reason", "What holds the job up, or how it ended."),
    ("Stage", "string", ".status.stage", "The newest stage and the number of stages."),
    ("Tokens", "number", ".status.tokens", "Mean number of prompt tokens per query in the newest stage."),
    ("Score", "string", ".status.score", "The newest score on held-out rows."),
    ("Verdict", "string", ".status.verdict", "Whether the query alone is enough."),
    ("Age", "date", ".metadata.creationTimestamp", "The time since the job was created."),
)
_WIDE_COLUMNS = (
    ("Full prompt", "number", ".status.tokensBefore", "Mean number of tokens of the full prompt."),
    ("RayJob", "string", ".status.rayJobName", "The RayJob of the newest attempt."),
    ("Report", "string", ".status.training.outputs.report", "URI of the report."),
)
"""The columns that only `kubectl get -o wide` shows."""


def custom_resource_definition() -> dict[str, Any]:
    """Return the manifest of the CRD (apiextensions.k8s.io/v1), which needs Kubernetes 1.30 or newer."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": text, "priority": priority}
        for priority, group in enumerate((_COLUMNS, _WIDE_COLUMNS))
        for name, kind, path, text in group
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": open_api_schema()},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """A YAML dumper that writes every value in full, without anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def crd_yaml() -> str:
    """Return the text of the CRD file."""
    text: str = yaml.dump(custom_resource_definition(), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return _HEADER + text


def generated_files() -> dict[str, str]:
    """Return the text of every generated file, by its path in the repository."""
    return {CRD_FILE: crd_yaml(), CHART_FILE: crd_yaml(), REFERENCE_FILE: api_reference()}


def stale_files(root: Path) -> list[str]:
    """Return the paths of the generated files that are missing or out of date under ``root``."""
    return [name for name, text in generated_files().items() if _read(root / name) != text]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status, which is 1 if ``--check`` finds a stale file."""
    parser = argparse.ArgumentParser(
        prog="promptintern-crd",
        description=("Print the CustomResourceDefinition of PromptInternJob, which is generated from its models."),
        epilog="Example: promptintern-crd | kubectl apply --server-side -f -",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help=f"write {CRD_FILE}, the chart's copy and {REFERENCE_FILE}")
    mode.add_argument(
        "--check", action="store_true", help="write nothing; exit with status 1 if one of these files is stale"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parents[2],
        help="root folder of the repository (default: the one of this package)",
    )
    options = parser.parse_args(arguments)
    if options.write:
        for name, text in generated_files().items():
            (options.root / name).parent.mkdir(parents=True, exist_ok=True)
            (options.root / name).write_text(text, encoding="utf-8")
    elif options.check:
        for name in (names := stale_files(options.root)):
            print(f"{options.root / name}: is stale; run promptintern-crd --write", file=sys.stderr)
        return 1 if names else 0
    else:
        print(crd_yaml(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
