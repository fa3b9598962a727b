"""Text embeddings: a transformer's last hidden states, averaged over the tokens of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from promptintern.errors import UserError, first_line
from promptintern.models.load import context_length

FIELD = "spec.prompt.retriever.modelUri"
_ROWS = 32
_MAX_TOKENS = 512


class TextEncoder:
    """An encoder that computes mean-pooled, normalised vectors with a transformer.

    Every batch is padded to the same number of rows, and its width is rounded up to a power of two. Each
    text is thus always encoded in a batch of the same shape, so its vector does not depend on the other texts.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._limit = min(context_length(model.config) or _MAX_TOKENS, _MAX_TOKENS)
        # Models like RoBERTa number positions from the id of the padding token plus 1.
        if getattr(model.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
            self._limit = min(self._limit, context_length(model.config) - (model.config.pad_token_id or 0) - 1)  # type: ignore[operator]

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return float32 vectors ``[len(texts), hidden]`` of length 1 on the CPU. Long texts are truncated."""
        ids = self._tokenizer(
            list(texts), truncation=True, max_length=self._limit, return_attention_mask=False, verbose=False
        )["input_ids"]
        by_width: dict[int, list[int]] = {}
        for index, row in enumerate(ids):
            by_width.setdefault(self._width(len(row)), []).append(index)
        vectors = torch.zeros(len(texts), self._model.config.hidden_size)
        for width, members in sorted(by_width.items()):
            for start in range(0, len(members), _ROWS):
                batch = members[start : start + _ROWS]
                vectors[batch] = self._encode_batch([ids[i] for i in batch], width)[: len(batch)]
        return vectors

    def _width(self, length: int) -> int:
        return min(max(8, 1 << max(length - 1, 0).bit_length()), self._limit)

    def _encode_batch(self, rows: Sequence[Sequence[int]], width: int) -> torch.Tensor:
        device = next(self._model.parameters()).device
        pad = self._tokenizer.pad_token_id or 0
        inputs = torch.full((_ROWS, width), pad)
        mask = torch.zeros(_ROWS, width, dtype=torch.long)
        mask[:, 0] = 1  # padding rows too, because a mean needs at least one token
        for index, row in enumerate(rows):
            inputs[index, : len(row)] = torch.tensor(list(row), dtype=torch.long)
            mask[index, : len(row)] = 1
        states = self._model(input_ids=inputs.to(device), attention_mask=mask.to(device)).last_hidden_state
        weights = mask.to(device)[..., None].to(torch.float32)
        mean = (states.float() * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1).cpu()


def load_encoder(path: Path, *, device: torch.device | None = None) -> TextEncoder:
    """Load the encoder in the folder ``path`` in float32 on ``device`` (default: the CPU).

    Raises:
        UserError: if the folder contains no model that transformers can load.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        model = AutoModel.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # noqa: BLE001 -- every loader fails in its own way; the user needs the field
        raise UserError.at(FIELD, f"the encoder in {path} cannot be loaded: {first_line(error)}") from None
    return TextEncoder(model.requires_grad_(requires_grad=False).eval().to(device or "cpu"), tokenizer)
