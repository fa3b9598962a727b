"""The API server accepts the YAML snippets of the docs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.api.conftest import Judge
from tests.unit.api.documents import small_job

DOCS = Path(__file__).parents[3] / "docs"
PIECES = [
    pytest.param(block[1], id=f"{page.name}:{text[: block.start()].count(chr(10)) + 1}")
    for page in sorted(DOCS.glob("*.md"))
    for text in [page.read_text(encoding="utf-8")]
    for block in re.finditer(r"^```yaml\n(spec:\n.*?)^```", text, re.DOTALL | re.MULTILINE)
]
"""Every block that begins with `spec:` and so is a part of a job."""


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return ``one`` with the fields of ``other`` merged in."""
    both = {
        key: merged(one[key], value) if isinstance(value, dict) and key in one else value
        for key, value in other.items()
    }
    return one | both


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_of_a_job(judge: Judge, piece: str) -> None:
    code, said, _ = judge(merged(small_job(), yaml.safe_load(piece)))
    assert code == 201, said


def test_there_are_pieces() -> None:
    assert len(PIECES) >= 5
