"""The questions to a trained adapter that the README, the pages in docs/ and the command line's help show."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from promptintern.cli.app import app

ROOT = Path(__file__).parents[1]
PLACEHOLDER = "YOUR QUERY"
"""The query that stands for one of the reader's own."""
_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"""promptintern predict (?!-)\S+ (["'])(?P<query>.+?)\1(?: +# (?P<answer>\S+))?$""")
_DIALOGUE = re.compile(r"\A(?P<query>.+\?)\n=(?P<answer>.+)\n\Z")
"""A question with its answer, in a block of their own."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and the answer that the text beside it shows."""

    where: str
    query: str
    answer: str | None


def documented_questions() -> list[Question]:
    """Return every question that is asked, except for placeholders.

    Raises:
        ValueError: if a block has a `promptintern predict` that does not ask one quoted question.
    """
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [(page.name, block) for page in pages for block in _BLOCK.findall(page.read_text(encoding="utf-8"))]
    blocks += [("promptintern --help", command.epilog) for command in app.registered_commands if command.epilog]
    return [found for where, block in blocks for found in _questions(where, block) if found.query != PLACEHOLDER]


def _questions(where: str, block: str) -> Iterator[Question]:
    dialogue = _DIALOGUE.search(block)
    if dialogue:
        yield Question(where=where, query=dialogue["query"], answer=dialogue["answer"])
    for line in block.splitlines():
        if "promptintern predict " in line:
            command = _COMMAND.search(line)
            if command is None:
                raise ValueError(f"{where}: the question in {line!r} was not understood")
            yield Question(where=where, query=command["query"], answer=command["answer"])
