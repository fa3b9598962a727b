"""Answers queries with an adapter from storage."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from promptintern_api.contract import ADAPTER_FOLDER, MANIFEST_FILE, PROMPT_FILE
from promptintern_api.model import Dtype

from promptintern.answering.answers import Answer, Decoding
from promptintern.answering.generate import generate
from promptintern.compress import CompressedTemplate
from promptintern.engine.adapter import WEIGHTS
from promptintern.engine.adapter_config import read_adapter_config
from promptintern.errors import Problem, UserError
from promptintern.models.fetch import ModelFolder, fetch_model
from promptintern.models.load import DTYPES, context_length, load_base_model, load_tokenizer, vocabulary_size
from promptintern.prompt.encode import PromptEncoder
from promptintern.prompt.inference import InferencePrompt, read_prompt
from promptintern.prompt.render import render_prompt
from promptintern.prompt.template import Piece, PieceKind
from promptintern.rows.types import Row
from promptintern.storage.manifest import fetch_folder, read_manifest
from promptintern.storage.store import open_store


@dataclass(frozen=True, kw_only=True)
class InternalizedModel:
    """A base model with an adapter, and the prompt that the adapter expects."""

    model: Any
    tokenizer: Any
    prompt: InferencePrompt
    device: torch.device
    warning: str | None = None
    """The reason to distrust the model's answers; None if no reason is known."""

    @cached_property
    def encoder(self) -> PromptEncoder:
        """The encoder of the prompts."""
        return PromptEncoder(self.tokenizer, chat=self.prompt.chat, vocabulary=vocabulary_size(self.model.config))

    def answer(self, queries: Sequence[str], *, batch_size: int) -> list[Answer]:
        """Return the answers to ``queries``, which are generated greedily.

        Raises:
            UserError: if a query is empty or too long for the model; the error lists all such queries.
        """
        encoder = self.encoder
        decoding = Decoding(
            max_new_tokens=self.prompt.max_new_tokens,
            stop=tuple(self.prompt.stop),
            ends=encoder.ends,
            batch_size=batch_size,
        )
        ids = encoder.encode_prompts(self.render_prompts(queries))
        context = context_length(self.model.config)
        max_prompt_tokens = context - self.prompt.max_new_tokens if context else None
        problems = [
            Problem(where=f"query {number}", message=message)
            for number, (query, tokens) in enumerate(zip(queries, ids, strict=True), start=1)
            if (message := _query_problem(query, len(tokens), max_prompt_tokens))
        ]
        if problems:
            raise UserError(problems)
        return generate(self.model, self.tokenizer, ids, decoding=decoding, device=self.device)

    def render_prompts(self, queries: Sequence[str]) -> list[str]:
        """Return the prompt of each query, which consists of the pieces and the examples that the adapter expects.

        After a run that no gate stopped, prompts contain no examples.
        """
        pool = [
            Row(query=e.query, answer=e.answer, answers=(e.answer,), id=str(i), where=f"examples:{i}")
            for i, e in enumerate(self.prompt.examples)
        ]
        shots = self.prompt.shots
        neighbours: list[list[int]] = [[] for _ in queries]
        if shots:
            from promptintern_api.prompt import Retriever

            from promptintern.retrieve import build_retriever

            neighbours = build_retriever(Retriever(), pool, seed=0).neighbours(list(queries), shots)
        pieces = tuple(Piece(text=p.text, kind=PieceKind(p.kind)) for p in self.prompt.pieces)
        template = CompressedTemplate(pieces=pieces, requested_rate=0, achieved_rate=0, tokens=0, full_tokens=0)
        return [
            render_prompt(
                template,
                query=query,
                examples=[pool[i] for i in indices],
                example_template=self.prompt.example_template,
            )
            for query, indices in zip(queries, neighbours, strict=True)
        ]


def _query_problem(query: str, tokens: int, max_prompt_tokens: int | None) -> str | None:
    if not query.strip():
        return "is empty"
    if max_prompt_tokens is not None and tokens > max_prompt_tokens:
        return f"has {tokens} prompt tokens, but the model has room for {max_prompt_tokens} before the answer"
    return None


def load_internalized_model(adapter_uri: str, local: Path, *, base_model: str | None = None) -> InternalizedModel:
    """Copy the files of an adapter into ``local``, verify them, and load the base model with the adapter.

    Args:
        adapter_uri: The URI of the adapter's folder or of its run.
        base_model: The URI of the base model; None to use the URI that the adapter records.

    Raises:
        UserError: if there is no adapter, its ``adapter_config.json`` holds anything that the trainer does not write,
            the base model cannot be loaded, or the adapter does not fit the base model.
        RunFailed: if a file of the adapter does not match its entry in the manifest.
    """
    from peft import PeftModel

    prompt = fetch_adapter(adapter_uri, local)
    config = read_adapter_config(local, where=adapter_uri)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    field = "--base-model" if base_model else f"{PROMPT_FILE}: base_model"
    folder = fetch_model(base_model or prompt.base_model, field=field)
    tokenizer = load_tokenizer(folder, field=field)
    base = load_base_model(folder, dtype=DTYPES[Dtype(prompt.dtype)], device=device, field=field)
    try:
        model = PeftModel.from_pretrained(base, str(local), config=config.peft_config(), torch_device=str(device))
    except Exception as error:  # noqa: BLE001 -- each kind of mismatch raises a different error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError.at(
            field,
            f"the adapter does not fit this base model ({' '.join(lines[:2])[:200]}); it was trained on "
            f"{prompt.base_model}",
        ) from None
    return InternalizedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        prompt=prompt,
        device=device,
        warning=None if prompt.base_digest in (None, folder.digest()) else _base_model_warning(folder, prompt),
    )


def _base_model_warning(folder: ModelFolder, prompt: InferencePrompt) -> str:
    return f"{folder.uri} is not the base model that the adapter was trained on ({prompt.base_model}): its files differ"


def fetch_adapter(uri: str, local: Path) -> InferencePrompt:
    """Copy an adapter into ``local``, verify its files, and return the prompt that it expects.

    Args:
        uri: The URI of the adapter's folder or of its run.

    Raises:
        UserError: if there is no committed adapter at ``uri``.
        RunFailed: if a file of the adapter does not match its entry in the manifest.
    """
    store = open_store(uri)
    for folder in (store, store.child(ADAPTER_FOLDER)):
        manifest = read_manifest(folder, MANIFEST_FILE)
        if manifest is not None and manifest.kind == "adapter":
            fetch_folder(folder, manifest, folder="", local=local)
            break
    else:
        raise UserError.at(
            uri,
            f"contains no finished adapter, because {ADAPTER_FOLDER}/{MANIFEST_FILE} is missing; give the folder of a "
            "run or of its adapter",
        )
    try:
        prompt = read_prompt(local)
    except (OSError, ValueError) as error:
        raise UserError.at(f"{uri}/{PROMPT_FILE}", f"cannot be read: {str(error).splitlines()[0]}") from None
    if not (local / WEIGHTS).exists():
        raise UserError.at(uri, f"contains no {WEIGHTS}")
    return prompt
