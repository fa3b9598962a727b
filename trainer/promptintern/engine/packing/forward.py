"""One pack through the model: the summed loss over its answer tokens, without contamination between its rows."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from promptintern.engine.attention.backends import least_saved_on, planner_of
from promptintern.engine.attention.prefix_tree import Prefixes, PrefixTree, plant
from promptintern.engine.attention.shared_prefix import Trunk
from promptintern.engine.attention.tree_attention import Cascade, cascade_of
from promptintern.engine.device import moved
from promptintern.engine.fused.chunked_loss import are_losses
from promptintern.prompt.encode import Encoded


@dataclass(frozen=True, kw_only=True)
class PackTensors:
    """A pack as the model takes it.

    Attributes:
        input_ids: ``[1, T]`` int64.
        position_ids: ``[1, T]`` int64, each token's place in its row.
        predicts: ``[L]`` int64, the places whose next token is an answer token, row by row, none twice.
        labels: ``[L]`` int64, those next tokens.
        cascade: How tokens attend to each other; None where transformers reads the rows' borders from position ids
            that begin at 0, and masks attention across them.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predicts: torch.Tensor
    labels: torch.Tensor
    cascade: Cascade | None


def tree_of(rows: Sequence[Encoded], *, shared: bool, least_saved: int, trunk: int = 0) -> PrefixTree:
    """The tree of a pack above which are ``trunk`` tokens; one whose rows have nothing else in common unless
    ``shared``."""
    prefixes = Prefixes([row.prompt_ids for row in rows]) if shared else None
    return plant(
        [prefixes.common(i, j) if prefixes else trunk for i, j in pairwise(range(len(rows)))],
        [len(row.prompt_ids) for row in rows],
        [len(row.prompt_ids) + len(row.answer_ids) - 1 for row in rows],
        least_saved=least_saved,
        trunk=trunk,
    )


def pack_tensors(
    rows: Sequence[Encoded],
    *,
    device: torch.device,
    cascade: bool = False,
    shared: bool = False,
    least_saved: int | None = None,
    trunk: Trunk | None = None,
) -> PackTensors:
    """The tensors of ``rows``, in order. Every row needs at least one prompt and one answer token.

    Args:
        cascade: Attend over the prefix tree, in a model that ``engine.attention`` prepared, instead of under a mask.
        shared: What prompts have in common is there once. Needs ``cascade``.
        least_saved: Tokens that a shared node has to save; as it pays on ``device`` if None.
        trunk: Of tokens that all rows begin with, which are not in the pack then. Needs ``cascade``.
    """
    assert cascade or not (shared or trunk)
    planner = planner_of(device) if cascade else None
    assert planner or not cascade, f"there is no attention over trees on {device.type}"
    if least_saved is None:
        least_saved = least_saved_on(device)
    tree = tree_of(rows, shared=shared, least_saved=least_saved, trunk=trunk.tokens if trunk else 0)
    ids: list[int] = []
    positions: list[int] = []
    for node in tree.nodes:
        row, end = rows[node.row], node.begin + node.end - node.start
        prompt = len(row.prompt_ids)
        ids += row.prompt_ids[node.begin : end]
        if end > prompt:
            ids += row.answer_ids[max(0, node.begin - prompt) : end - prompt]
        positions += range(node.begin, end)
    predicts: list[int] = []
    labels: list[int] = []
    for row, answer in zip(rows, tree.answer, strict=True):
        assert len(row.prompt_ids)
        assert len(row.answer_ids)
        predicts += range(answer - 1, answer + len(row.answer_ids) - 1)
        labels += row.answer_ids
    return PackTensors(
        input_ids=moved([ids], device),
        position_ids=moved([positions], device),
        predicts=moved(predicts, device),
        labels=moved(labels, device),
        cascade=cascade_of(tree, planner, device=device, trunk=trunk) if planner else None,
    )


def pack_loss(model: Any, pack: PackTensors) -> torch.Tensor:
    """Sum of ``-ln p`` over the pack's answer tokens, a float32 scalar.

    The output layer runs for predicting places only: with a vocabulary of 128k and answers of 20 tokens, all other
    logits would be most of the memory.
    """
    extra = {} if pack.cascade is None else {"cascade": pack.cascade, "answers": pack.labels}
    logits: torch.Tensor = model(
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        logits_to_keep=pack.predicts,
        use_cache=False,
        **extra,
    ).logits
    if are_losses(logits):
        return logits.sum()
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), pack.labels, reduction="sum")


def grow_trunk(model: Any, ids: Sequence[int], *, device: torch.device) -> Trunk:
    """The trunk of ``ids`` in ``model``, which ``engine.attention`` prepared: a row that nothing is asked of."""
    trunk = Trunk(len(ids))
    anything = array("i", ids[:1])
    row = Encoded(prompt_ids=memoryview(array("i", ids)), answer_ids=memoryview(anything))
    pack = pack_tensors([row], device=device, cascade=True)
    assert pack.cascade
    pack_loss(model, replace(pack, cascade=replace(pack.cascade, becomes=trunk)))
    return trunk


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
