"""Merges the adapter of a run into its base model, exports the result, and measures how its logits changed."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from promptintern.answering.answers import end_tokens
from promptintern.commands.predict import load_internalized_model
from promptintern.errors import UserError
from promptintern.models.fetch import fetch_model
from promptintern.models.load import load_base_model

_PROBES = (
    "list all files",
    "total of the first column",
    "def add(a, b):",
    "select name from users where id = 1",
)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The difference in logits between a merged model and its base model with the adapter, on the same prompts."""

    largest_difference: float
    """The largest absolute difference between a logit of the merged model and the same logit of the base model with its
    adapter."""
    largest_logit: float
    """The largest absolute logit of the base model with its adapter, for comparison."""
    agreement: float
    """The share of token positions at which the two models have the same most likely next token."""
    positions: int


def export_merged(run_uri: str, target: Path, *, base_model: str | None = None) -> Drift:
    """Merge the adapter of a run into its base model, write the merged model to ``target``, and return its drift.

    The drift is measured after the merged model has been read from ``target`` again.

    Raises:
        UserError: if ``target`` is not a new or empty local folder, or the run has no adapter.
    """
    if ":/" in str(target):  # pathlib collapses two slashes into one
        raise UserError.at("--merged", f"{target} is not a local folder; export to a local folder and copy the files")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError.at("--merged", f"{target} already exists; name a new folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError.at("--merged", f"{target} cannot be created: {error.strerror}") from None
    with tempfile.TemporaryDirectory(prefix="promptintern-") as local:
        internalized = load_internalized_model(run_uri, Path(local), base_model=base_model)
        probes = internalized.render_prompts(_PROBES)
        adapter_logits = _probe_logits(internalized.model, internalized.tokenizer, probes)
        tokenizer, device, ends = internalized.tokenizer, internalized.device, internalized.encoder.ends
        merged = internalized.model.merge_and_unload(safe_merge=True)
        del internalized  # keeps only one copy of the weights in memory
        merged.generation_config = _without_sampling(merged, tokenizer, ends)
        merged.save_pretrained(target)
        tokenizer.save_pretrained(target)
        dtype = next(merged.parameters()).dtype
        del merged
    written = load_base_model(
        fetch_model(target.resolve().as_uri(), field="--merged"), dtype=dtype, device=device, field="--merged"
    )
    merged_logits = _probe_logits(written.eval(), tokenizer, probes)
    return Drift(
        largest_difference=(adapter_logits - merged_logits).abs().max().item(),
        largest_logit=adapter_logits.abs().max().item(),
        agreement=(adapter_logits.argmax(-1) == merged_logits.argmax(-1)).float().mean().item(),
        positions=len(adapter_logits),
    )


def _without_sampling(model: Any, tokenizer: Any, ends: Sequence[int]) -> Any:
    """Return a generation config with the special tokens of the model, the tokens that end answers, and nothing else.

    The adapter was trained and measured with greedy answers, so the base model's temperature and penalties would change
    them. Besides, transformers refuses to save sampling settings beside ``do_sample=False``, as some models have them.
    """
    from transformers import GenerationConfig

    config = model.generation_config
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=sorted(end_tokens(model, tokenizer, ends)),
        pad_token_id=config.pad_token_id,
    )


@torch.inference_mode()
def _probe_logits(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Return the logits at all token positions of ``texts``, as ``[positions, vocabulary]`` in float32."""
    device = next(model.parameters()).device
    rows = [tokenizer(text, return_tensors="pt").input_ids.to(device) for text in texts]
    return torch.cat([model(input_ids=ids, use_cache=False).logits[0].float() for ids in rows]).cpu()
