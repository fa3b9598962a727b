"""The prompt that a trained adapter expects, as the adapter's folder records it."""

import json
from pathlib import Path

from promptintern_api.contract import PROMPT_FILE
from pydantic import BaseModel, ConfigDict


class PromptPiece(BaseModel):
    """A piece of the prompt that an adapter expects: a fixed text, or the place of the query or of the examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    text: str


class ExamplePair(BaseModel):
    """A training row that a prompt may contain as an example."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str
    answer: str


class InferencePrompt(BaseModel):
    """The content of ``promptintern.json``, which describes the prompt that an adapter expects.

    The prompt consists of ``pieces``. After a run that no gate stopped, they hold little more than the query.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: str = "1.0"
    base_model: str
    """The URI of the base model, as given in the job."""
    base_digest: str | None = None
    """The digest (``ModelFolder.digest``) of the base model that the adapter was trained on."""
    dtype: str
    pieces: list[PromptPiece]
    example_template: str
    shots: int
    chat: bool
    stop: list[str]
    max_new_tokens: int
    examples: list[ExamplePair]
    """The pool from which ``shots`` examples are retrieved for each prompt. The pool is empty if ``shots`` is 0, as
    after a run that no gate stopped."""


def read_prompt(folder: Path) -> InferencePrompt:
    """Return the content of ``promptintern.json`` in an adapter folder.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not JSON, or not an ``InferencePrompt``.
    """
    return InferencePrompt.model_validate(json.loads((folder / PROMPT_FILE).read_text(encoding="utf-8")))
