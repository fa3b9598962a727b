"""What the images are built from is pinned, and what they contain is listed."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILES = [ROOT / name / "Dockerfile" for name in ("operator", "trainer")]
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
PACKAGES = ["promptintern", "promptintern-operator"]


def locked(package: str) -> set[tuple[str, str]]:
    """Return the name and version of every package that ``package`` needs on some platform, itself included."""
    entries: dict[str, list[dict[str, object]]] = {}
    for entry in LOCK["package"]:
        entries.setdefault(entry["name"], []).append(entry)
    reached: set[tuple[str, str]] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(package, frozenset[str]())]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for entry in entries[name]:
            reached.add((name, str(entry["version"])))
            optional = entry.get("optional-dependencies", {})
            assert isinstance(optional, dict)
            needs = [entry.get("dependencies", []), *(optional.get(extra, []) for extra in extras)]
            todo += [(need["name"], frozenset(need.get("extra", []))) for group in needs for need in group]  # type: ignore[attr-defined]
    return reached


@pytest.mark.parametrize("package", PACKAGES)
def test_the_bill_of_materials_lists_the_locked_packages(package: str) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "run the tests with `uv run`, or put uv on PATH"
    done = subprocess.run(
        [ROOT / "tools/sbom.sh", package, "--offline"],
        env={**os.environ, "UV": uv},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    listed = {(each["name"], each["version"]) for each in [document["metadata"]["component"], *document["components"]]}
    assert listed == locked(package)
    assert all("purl" in each for each in document["components"] if not each["name"].startswith("promptintern"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_gets_the_pinned_uv_and_a_base_that_can_be_pinned(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    for install in re.findall(r"bin/pip install [^\n&]*", text):
        assert install.rstrip().endswith("--require-hashes -r tools/uv.txt")
    sources = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert set(sources) == {"${BASE}"}
    (base,) = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    (lock,) = (line for line in (ROOT / "images.lock").read_text().splitlines() if not line.startswith("#"))
    assert lock.split("@")[0] == f"docker.io/library/{base}"
    assert "sbom" in text or "tools/libraries.sh" in text


def test_uv_is_pinned_to_a_version_with_digests() -> None:
    (pin,) = re.findall(r"^uv==([\d.]+) \\$", (ROOT / "tools/uv.txt").read_text(), re.MULTILINE)
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", (ROOT / "tools/uv.txt").read_text())) > 1
    assert pin.count(".") == 2


@pytest.mark.parametrize("folder", ["crds", "operator", "trainer"])
def test_a_build_backend_is_bounded_and_locked(folder: str) -> None:
    built = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["build-system"]
    pins = {
        canonicalize_name(pin.name): pin
        for pin in map(Requirement, WORKSPACE["tool"]["uv"]["build-constraint-dependencies"])
    }
    for requirement in map(Requirement, built["requires"]):
        assert {"<", ">="} <= {each.operator for each in requirement.specifier}
        (exact,) = pins[canonicalize_name(requirement.name)].specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version)
    recorded = {(each["name"], each["specifier"]) for each in LOCK["manifest"]["build-constraints"]}
    assert recorded == {(name, str(pin.specifier)) for name, pin in pins.items()}
