"""The computation of one pack: the loss or the distributions at its answer tokens, with no row influencing another."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from promptintern.engine.answer_loss import AnswerTargets, LossOfLogits, Teaching, top_k_of_logits
from promptintern.engine.attention.backends import backend_for, min_node_savings_on
from promptintern.engine.attention.prefix_tree import Prefixes, PrefixTree, build_tree
from promptintern.engine.attention.shared_prefix import Prefix, SharedPrefix
from promptintern.engine.attention.tree_attention import TreeAttention, plan_tree_attention
from promptintern.engine.device import to_device
from promptintern.engine.fused.chunked_loss import TopKRequest, are_losses
from promptintern.prompt.encode import Encoded


@dataclass(frozen=True, kw_only=True)
class PackTensors:
    """The tensors of a pack, in the form that the model takes.

    Attributes:
        input_ids: The token ids, ``[1, T]`` int64.
        position_ids: The position of each token in its row, ``[1, T]`` int64.
        predicts: The indices, ``[L]`` int64, of the tokens whose next token is an answer token, row by row, without
            duplicates.
        targets: What the model should predict after the tokens in ``predicts``, for ``L`` answer tokens.
        tree: The prefix tree of the pack, in which every row is a leaf if prefixes are not shared.
        attention: The tree attention of the pack; None if transformers instead masks attention between rows (it
            recognizes the beginning of a row by the position id 0).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predicts: torch.Tensor
    targets: AnswerTargets
    tree: PrefixTree
    attention: TreeAttention | None


def prefix_tree_of(
    rows: Sequence[Encoded], *, share_prefixes: bool, min_node_savings: int, prefix_tokens: int = 0
) -> PrefixTree:
    """Return the prefix tree of a pack.

    Args:
        rows: The pack's rows, in order.
        share_prefixes: Whether rows share the nodes of their common prefixes. If False, each row is a leaf.
        min_node_savings: The minimum number of tokens that a shared node must save.
        prefix_tokens: The number of tokens in the shared prefix above the tree.
    """
    prefixes = Prefixes([row.prompt_ids for row in rows]) if share_prefixes else None
    return build_tree(
        [prefixes.common_tokens(i, j) if prefixes else prefix_tokens for i, j in pairwise(range(len(rows)))],
        [len(row.prompt_ids) for row in rows],
        [len(row.prompt_ids) + len(row.answer_ids) - 1 for row in rows],
        min_node_savings=min_node_savings,
        prefix_tokens=prefix_tokens,
    )


def pack_tensors(
    rows: Sequence[Encoded],
    *,
    device: torch.device,
    tree_attention: bool = False,
    share_prefixes: bool = False,
    min_node_savings: int | None = None,
    shared_prefix: Prefix | None = None,
) -> PackTensors:
    """Return the tensors of a pack that holds ``rows`` in the given order.

    Every row must have at least one prompt token and one answer token.

    Args:
        tree_attention: Whether the model attends over the prefix tree instead of with a mask. If True, the model must
            be patched by ``promptintern.engine.packing.layout.patched_for``.
        share_prefixes: Whether the pack holds common prefixes of prompts only once. This requires ``tree_attention``.
        min_node_savings: The minimum number of tokens that a shared node must save. The default is the value of the
            backend for ``device``.
        shared_prefix: The prefix with which all rows begin and which the pack does not hold. This requires
            ``tree_attention``.
    """
    assert tree_attention or not (share_prefixes or shared_prefix)
    backend = backend_for(device) if tree_attention else None
    assert backend or not tree_attention, f"tree attention has no backend for {device.type}"
    if min_node_savings is None:
        min_node_savings = min_node_savings_on(device)
    tree = prefix_tree_of(
        rows,
        share_prefixes=share_prefixes,
        min_node_savings=min_node_savings,
        prefix_tokens=shared_prefix.tokens if shared_prefix else 0,
    )
    ids: list[int] = []
    positions: list[int] = []
    for node in tree.nodes:
        row, end = rows[node.row], node.position + node.end - node.start
        prompt = len(row.prompt_ids)
        ids += row.prompt_ids[node.position : end]
        if end > prompt:
            ids += row.answer_ids[max(0, node.position - prompt) : end - prompt]
        positions += range(node.position, end)
    predicts: list[int] = []
    labels: list[int] = []
    for row, answer_start in zip(rows, tree.answer_starts, strict=True):
        assert len(row.prompt_ids)
        assert len(row.answer_ids)
        predicts += range(answer_start - 1, answer_start + len(row.answer_ids) - 1)
        labels += row.answer_ids
    return PackTensors(
        input_ids=to_device([ids], device),
        position_ids=to_device([positions], device),
        predicts=to_device(predicts, device),
        targets=_targets(rows, labels, device),
        tree=tree,
        attention=plan_tree_attention(tree, backend, device=device, shared_prefix=shared_prefix) if backend else None,
    )


def _targets(rows: Sequence[Encoded], labels: list[int], device: torch.device) -> AnswerTargets:
    """Return the targets of the answer tokens of ``rows``, which are ``labels``, row by row."""
    weights = None
    if any(row.weight != 1 for row in rows):
        weights = torch.tensor([row.weight for row in rows for _ in row.answer_ids], dtype=torch.float32, device=device)
    taught = [row.teacher for row in rows if row.teacher is not None]
    if not taught:
        return AnswerTargets(labels=to_device(labels, device), weights=weights)
    k = taught[0].ids.shape[1]
    ids = np.zeros((len(labels), k), np.int64)
    log_probs = np.full((len(labels), k + 1), -np.inf, np.float32)
    teacher_weights = np.zeros(len(labels), np.float32)
    start = 0
    for row in rows:
        cut = slice(start, start + len(row.answer_ids))
        if row.teacher is not None:
            ids[cut] = row.teacher.ids
            log_probs[cut, :-1], log_probs[cut, -1] = row.teacher.log_probs, row.teacher.rest
            teacher_weights[cut] = row.teacher.weight
        start = cut.stop
    return AnswerTargets(
        labels=to_device(labels, device),
        weights=weights,
        teaching=Teaching(
            ids=torch.from_numpy(ids).to(device),
            log_probs=torch.from_numpy(log_probs).to(device),
            weights=torch.from_numpy(teacher_weights).to(device),
            loss=taught[0].loss,
        ),
    )


def pack_loss(model: Any, pack: PackTensors) -> torch.Tensor:
    """Return the summed loss of the pack's answer tokens, as a float32 scalar: ``-ln p`` without weights and teacher.

    The output layer runs only for the tokens that predict an answer token. With a vocabulary of 128k tokens and answers
    of 20 tokens, all other logits would take most of the memory.
    """
    logits = _answer_logits(model, pack, pack.targets)
    if are_losses(logits):
        return logits.sum()
    logits = logits.reshape(-1, logits.shape[-1])
    if pack.targets.is_plain:
        return F.cross_entropy(logits.float(), pack.targets.labels, reduction="sum")
    losses: torch.Tensor = LossOfLogits.apply(logits, pack.targets)
    return losses.sum()


@torch.no_grad()
def pack_top_k(model: Any, pack: PackTensors, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the model's distributions at the pack's answer tokens.

    Returns:
        The ``k`` most likely tokens ``[L, k]`` int32, and the log-probabilities of these tokens and of all other tokens
        together, ``[L, k + 1]`` float32.
    """
    request = TopKRequest(k)
    logits = _answer_logits(model, pack, request)
    if are_losses(logits):
        return request.ids, request.log_probs
    return top_k_of_logits(logits.reshape(-1, logits.shape[-1]), k)


def _answer_logits(model: Any, pack: PackTensors, answers: AnswerTargets | TopKRequest) -> torch.Tensor:
    """Return the logits of the tokens that predict an answer token, or the losses of a model that returns these."""
    extra = {} if pack.attention is None else {"tree_attention": pack.attention, "answers": answers}
    logits: torch.Tensor = model(
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        logits_to_keep=pack.predicts,
        use_cache=False,
        **extra,
    ).logits
    return logits


def compute_shared_prefix(model: Any, ids: Sequence[int], *, device: torch.device) -> SharedPrefix:
    """Return the keys and values that ``model`` computes for a shared prefix with the tokens ``ids``.

    The prefix is computed as a pack of one row, whose loss is discarded. The model must be patched by
    ``promptintern.engine.packing.layout.patched_for``.
    """
    prefix = SharedPrefix(len(ids))
    any_answer = array("i", ids[:1])
    row = Encoded(prompt_ids=memoryview(array("i", ids)), answer_ids=memoryview(any_answer))
    pack = pack_tensors([row], device=device, tree_attention=True)
    assert pack.attention
    pack_loss(model, replace(pack, attention=replace(pack.attention, recorder=prefix)))
    return prefix


@torch.no_grad()
def packs_exactly(model: Any, *, vocab_size: int, device: torch.device) -> bool:
    """Return whether two rows get the same logits in one masked pack as in two separate packs.

    Not every architecture recognizes the beginnings of rows by position ids (recurrent layers, for example, do not), so
    this ability is tested on the model itself. The packed and separate logits of two random rows may differ only by
    rounding: by 1e-4 of the largest logit in float32, and by 5e-2 in bfloat16, whose rounding step is 2**-8.
    """
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocab_size, (n,), generator=generator).to(device) for n in (33, 17)]
    separate = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows]).float()
    ids = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(len(row), device=device) for row in rows])[None]
    packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()
    tolerance = 1e-4 if next(model.parameters()).dtype is torch.float32 else 5e-2
    return bool((packed - separate).abs().max() <= tolerance * separate.abs().max())
