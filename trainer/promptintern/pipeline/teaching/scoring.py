"""Computes the teacher's distributions over the next token at answer tokens."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from promptintern_api.training import TeacherLoss

from promptintern.engine import distributed
from promptintern.engine.fused.patching import train_mode
from promptintern.engine.packing.forward import PackTensors, compute_shared_prefix, pack_loss, pack_tensors, pack_top_k
from promptintern.engine.packing.layout import PackLayout, patched_for
from promptintern.errors import RunFailed
from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.lessons import Distributions
from promptintern.pipeline.tracks import layout_of, plan_rows
from promptintern.prompt.encode import Encoded
from promptintern.prompt.teacher_targets import TeacherTargets


def score_on_all_workers(session: Session, rows: Sequence[Encoded], k: int) -> Distributions:
    """Return the distributions of the model at the answer tokens of all rows. Each worker computes some rows.

    Raises:
        RunFailed: if the device has too little memory.
    """
    own = [rows[i] for i in distributed.own_share(len(rows))]
    try:
        scored = score_rows(session, own, k)
    except torch.OutOfMemoryError:
        raise RunFailed(
            f"{session.device} has too little memory to compute the teacher's probabilities; lower "
            "training.tokensPerPack"
        ) from None
    by_row = distributed.gather_shares(scored, len(rows))
    return Distributions(
        ids=np.concatenate([row.ids for row in by_row]), log_probs=np.concatenate([row.log_probs for row in by_row])
    )


def end_where_cut(distributions: Distributions, rows: Sequence[Encoded], cut: Sequence[bool]) -> Distributions:
    """Make the end token certain where an answer was cut at a stop string.

    The teacher itself would go on there. A student that learned this would go on as well, and its answers would end
    only where the same stop strings are used.

    Args:
        cut: Whether the answer of each row was cut.
    """
    ids, log_probs = distributions.ids.copy(), distributions.log_probs.copy()
    last = np.cumsum([len(row.answer_ids) for row in rows]) - 1
    for index, row, was_cut in zip(last, rows, cut, strict=True):
        if was_cut:
            end = row.answer_ids[-1]
            others = ids[index][ids[index] != end]
            ids[index] = [end, *others[: ids.shape[1] - 1]]
            log_probs[index] = [0.0, *[-np.inf] * ids.shape[1]]
    return Distributions(ids=ids, log_probs=log_probs)


@torch.no_grad()
def score_rows(session: Session, rows: Sequence[Encoded], k: int) -> list[Distributions]:
    """Return the distributions of this worker's model at the answer tokens of each row."""
    scored: dict[int, Distributions] = {}
    for indices, tensors in _packs(session, rows):
        ids, log_probs = (x.cpu().numpy() for x in pack_top_k(session.adapter.model, tensors, k))
        ends = np.cumsum([len(rows[i].answer_ids) for i in indices])[:-1]
        for i, row_ids, row_log_probs in zip(indices, np.split(ids, ends), np.split(log_probs, ends), strict=True):
            scored[i] = Distributions(ids=row_ids, log_probs=row_log_probs)
    return [scored[i] for i in range(len(rows))]


def with_divergence(row: Encoded, distributions: Distributions) -> Encoded:
    """Return ``row`` with the forward divergence from ``distributions`` as its only loss."""
    return Encoded(
        prompt_ids=row.prompt_ids,
        answer_ids=row.answer_ids,
        weight=0.0,
        teacher=TeacherTargets(
            ids=distributions.ids,
            log_probs=distributions.log_probs[:, :-1],
            rest=distributions.log_probs[:, -1],
            loss=TeacherLoss.FORWARD_KL,
            weight=1.0,
        ),
    )


@torch.no_grad()
def divergence_of_rows(session: Session, rows: Sequence[Encoded]) -> float:
    """Return the summed divergence of this worker's model at the answer tokens of rows of ``with_divergence``."""
    total = math.fsum(float(pack_loss(session.adapter.model, pack)) for _, pack in _packs(session, rows))
    return 0.0 if total < 0 else total  # rounding may make a divergence of 0 negative


def _packs(session: Session, rows: Sequence[Encoded]) -> Iterator[tuple[Sequence[int], PackTensors]]:
    """Yield packs that hold all rows, as the indices of their rows and their tensors, with the model in eval mode."""
    if not rows:
        return
    session.free_device()
    model, device, layout = session.adapter.model, session.device, layout_of(session, rows)
    # All rows are one step of one worker, so the template is computed once.
    (step,) = plan_rows(
        session,
        rows,
        layout=layout,
        seed=(0,),
        epochs=1,
        tokens_per_batch=2**62,
        rows_per_batch=None,
        world_size=1,
        threads=1,
    )
    with train_mode(model, training=False), patched_for(model, layout):
        prefix = rows[0].prompt_ids[: step.prefix_tokens]
        shared_prefix = compute_shared_prefix(model, prefix, device=device) if step.prefix_tokens else None
        for pack in step.workers[0]:
            yield (
                pack.rows,
                pack_tensors(
                    [rows[i] for i in pack.rows],
                    device=device,
                    tree_attention=layout.uses_tree_attention,
                    share_prefixes=layout is PackLayout.PREFIX_TREE,
                    shared_prefix=shared_prefix,
                ),
            )
