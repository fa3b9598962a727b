"""The API server accepts the fragments of jobs that the documentation shows."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.api.conftest import Judge
from tests.unit.api.documents import small_job

DOCS = Path(__file__).parents[3] / "docs"
FRAGMENTS = [
    pytest.param(block[1], id=f"{page.name}:{text[: block.start()].count(chr(10)) + 1}")
    for page in sorted(DOCS.glob("*.md"))
    for text in [page.read_text(encoding="utf-8")]
    for block in re.finditer(r"^```yaml\n(spec:\n.*?)^```", text, re.DOTALL | re.MULTILINE)
]
"""All YAML blocks that begin with `spec:`, which are parts of jobs."""


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the fields of ``overlay``."""
    changes = {
        key: merged(base[key], value) if isinstance(value, dict) and key in base else value
        for key, value in overlay.items()
    }
    return base | changes


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_fragment_of_a_job(judge: Judge, fragment: str) -> None:
    code, message, _ = judge(merged(small_job(), yaml.safe_load(fragment)))
    assert code == 201, message


def test_there_are_fragments() -> None:
    assert len(FRAGMENTS) >= 5
