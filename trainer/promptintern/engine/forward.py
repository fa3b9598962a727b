"""One pack through the model: the summed loss over its answer tokens, without contamination between its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from promptintern.prompt.encode import Encoded


@dataclass(frozen=True, kw_only=True)
class PackTensors:
    """A pack as the model takes it.

    Attributes:
        input_ids: ``[1, T]`` int64, the rows one after another.
        position_ids: ``[1, T]`` int64, starting at 0 in every row; transformers reads the rows' borders from it and
            masks attention across them.
        predicts: ``[1, T]`` bool, positions whose next token is an answer token.
        labels: ``[L]`` int64, those next tokens in order.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predicts: torch.Tensor
    labels: torch.Tensor


def pack_tensors(rows: Sequence[Encoded], *, device: torch.device) -> PackTensors:
    """The tensors of ``rows``, in order. Every row needs at least one prompt and one answer token."""
    ids: list[int] = []
    positions: list[int] = []
    predicts: list[bool] = []
    labels: list[int] = []
    for row in rows:
        prompt, answer = list(row.prompt_ids), list(row.answer_ids)
        assert prompt and answer
        ids += prompt + answer
        positions += range(len(prompt) + len(answer))
        predicts += [False] * (len(prompt) - 1) + [True] * len(answer) + [False]
        labels += answer
    return PackTensors(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        predicts=torch.tensor([predicts], device=device),
        labels=torch.tensor(labels, device=device),
    )


def pack_loss(model: Any, pack: PackTensors) -> torch.Tensor:
    """Sum of ``-ln p`` over the pack's answer tokens, a float32 scalar.

    The output layer runs for predicting positions only: with a vocabulary of 128k and answers of 20 tokens, all other
    logits would be most of the memory.
    """
    logits = model(
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        logits_to_keep=pack.predicts,
        use_cache=False,
    ).logits
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), pack.labels, reduction="sum")


@torch.no_grad()
def packs_exactly(model: Any, *, vocab_size: int, device: torch.device) -> bool:
    """Whether two rows in one pack get the logits that each gets alone.

    Not every architecture reads borders from position ids (recurrent layers, for one), so it is measured on the model
    itself: two random rows, packed and apart, may differ by rounding only (1e-4 of the largest logit in float32,
    5e-2 in bfloat16, whose rounding step is 2**-8).
    """
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocab_size, (n,), generator=draw).to(device) for n in (33, 17)]
    apart = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows]).float()
    ids = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(len(row), device=device) for row in rows])[None]
    together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()
    tolerance = 1e-4 if next(model.parameters()).dtype is torch.float32 else 5e-2
    return bool((together - apart).abs().max() <= tolerance * apart.abs().max())
