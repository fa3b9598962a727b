"""The loss at answer tokens: cross-entropy of written answers, and divergence from a teacher's distributions.

A teacher's distribution is known for its ``k`` most likely tokens. All other tokens together are one further outcome,
so each divergence is taken over ``k + 1`` outcomes. Merging outcomes never increases a divergence (the data processing
inequality; Cover and Thomas, Elements of Information Theory, section 2.8), so the loss is a lower bound of the
divergence over the whole vocabulary, and it is 0 if the two distributions are equal.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from promptintern_api.training import TeacherLoss

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """The teacher's distributions for ``L`` answer tokens, each with ``k + 1`` outcomes.

    Attributes:
        ids: The ``k`` most likely tokens, ``[L, k]`` int64.
        log_probs: The logarithms of the probabilities of all outcomes, ``[L, k + 1]`` float32. The last outcome is all
            other tokens.
        weights: The weight of the divergence at each token, ``[L]`` float32; 0 where there is no teacher.
        loss: The divergence.
    """

    ids: Tensor
    log_probs: Tensor
    weights: Tensor
    loss: TeacherLoss


@dataclass(frozen=True, kw_only=True)
class AnswerTargets:
    """What a model should predict at ``L`` answer tokens.

    Attributes:
        labels: The answer tokens, ``[L]`` int64.
        weights: The weight of the cross-entropy of each answer token, ``[L]`` float32; None if all weights are 1.
        teaching: The teacher's distributions; None if no token has a teacher.
    """

    labels: Tensor
    weights: Tensor | None = None
    teaching: Teaching | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the loss is the sum of the cross-entropies of all answer tokens."""
        return self.weights is None and self.teaching is None

    @property
    def buffers(self) -> int:
        """The number of ``[L, V]`` tensors that ``answer_losses`` holds at the same time."""
        return 1 if self.teaching is None else 4

    def split(self, rows: int) -> Iterator["AnswerTargets"]:
        """Yield the targets of ``rows`` answer tokens at a time."""
        for start in range(0, max(1, len(self.labels)), rows):
            cut = slice(start, start + rows)
            teaching = self.teaching
            yield AnswerTargets(
                labels=self.labels[cut],
                weights=None if self.weights is None else self.weights[cut],
                teaching=teaching
                and Teaching(
                    ids=teaching.ids[cut],
                    log_probs=teaching.log_probs[cut],
                    weights=teaching.weights[cut],
                    loss=teaching.loss,
                ),
            )


def answer_losses(log_p: Tensor, targets: AnswerTargets) -> tuple[Tensor, Tensor]:
    """Return the loss of each answer token ``[L]``, and its gradient with respect to the logits ``[L, V]``.

    Args:
        log_p: The logarithms of the model's probabilities, ``[L, V]`` float32. They are overwritten.
    """
    labels = targets.labels[:, None]
    losses = -log_p.gather(1, labels)[:, 0]
    if targets.teaching is None:
        slope = log_p.exp_()
        slope.scatter_add_(1, labels, slope.new_full((len(labels), 1), -1.0))
        if targets.weights is None:
            return losses, slope
        return losses * targets.weights, slope.mul_(targets.weights[:, None])
    divergences, slope = _divergences(log_p, targets.teaching)
    weights = targets.teaching.weights
    divergences = torch.where(weights > 0, divergences.clamp_min(0) * weights, 0.0)
    slope = torch.where((weights > 0)[:, None], slope * weights[:, None], 0.0)
    label_weights = torch.ones_like(losses) if targets.weights is None else targets.weights
    slope += log_p.exp_() * label_weights[:, None]
    slope.scatter_add_(1, labels, -label_weights[:, None])
    return losses * label_weights + divergences, slope


def _divergences(log_p: Tensor, teaching: Teaching) -> tuple[Tensor, Tensor]:
    """Return the divergence from the teacher at each token ``[L]``, and its gradient with respect to the logits.

    Let q be the teacher's and p the model's probabilities of the outcomes b, and let m = (p + q) / 2. The forward
    Kullback-Leibler divergence is D = sum q ln(q / p), and the Jensen-Shannon divergence is
    D = (sum q ln(q / m) + sum p ln(p / m)) / 2 (Lin 1991, Divergence measures based on the Shannon entropy). With
    g = dD/dp, the gradient with respect to the logit of token j, which belongs to outcome b(j), is
    p_j (g_b(j) - sum p_b g_b). For the forward divergence, p g = -q. For the Jensen-Shannon divergence,
    g = ln(p / m) / 2.
    """
    log_q = teaching.log_probs
    others = log_p.scatter(1, teaching.ids, -math.inf)
    log_rest = others.logsumexp(1, keepdim=True)
    log_outcomes = torch.cat([log_p.gather(1, teaching.ids), log_rest], dim=1)
    # The share of each other token in the last outcome; 0 for the tokens that are outcomes of their own.
    shares = others.sub_(log_rest.clamp_min(torch.finfo(log_p.dtype).min)).exp_()
    q, p = log_q.exp(), log_outcomes.exp()
    if teaching.loss is TeacherLoss.FORWARD_KL:
        divergences = _expectation(q, log_q - log_outcomes)
        pulls = -q
    else:
        log_m = torch.logaddexp(log_q, log_outcomes) - math.log(2)
        divergences = (_expectation(q, log_q - log_m) + _expectation(p, log_outcomes - log_m)) / 2
        pulls = torch.where(p > 0, p * (log_outcomes - log_m) / 2, 0.0)
    slope = log_p.exp().mul_(-pulls.sum(1, keepdim=True))
    slope += shares.mul_(pulls[:, -1:])
    return divergences, slope.scatter_add_(1, teaching.ids, pulls[:, :-1])


def _expectation(probabilities: Tensor, values: Tensor) -> Tensor:
    """Return the sum of ``probabilities * values`` over the outcomes; an outcome of probability 0 adds nothing."""
    return torch.where(probabilities > 0, probabilities * values, 0.0).sum(1)


_CHUNK_LOGITS = 2**24
"""The number of logits for which losses are computed at the same time."""


class LossOfLogits(torch.autograd.Function):
    """The autograd function that maps logits ``[L, V]`` and targets to losses ``[L]`` in float32."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: AnswerTargets) -> Tensor:
        rows = max(1, _CHUNK_LOGITS // (targets.buffers * logits.shape[1]))
        slope, losses = torch.empty_like(logits), []
        for part, cut, target in zip(
            torch.split(logits, rows), torch.split(slope, rows), targets.split(rows), strict=True
        ):
            loss, part_slope = answer_losses(torch.log_softmax(part.float(), dim=-1), target)
            losses.append(loss)
            cut.copy_(part_slope)
        ctx.save_for_backward(slope)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None].to(slope.dtype), None


def top_k_of_logits(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return what ``top_k`` returns for logits ``[L, V]`` of any dtype, computed for some tokens at a time."""
    rows = max(1, _CHUNK_LOGITS // (2 * logits.shape[1]))
    parts = [top_k(torch.log_softmax(part.float(), dim=-1), k) for part in torch.split(logits, rows)]
    return torch.cat([ids for ids, _ in parts]), torch.cat([log_probs for _, log_probs in parts])


def top_k(log_p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` most likely tokens ``[L, k]`` int32, and the log-probabilities of all outcomes ``[L, k + 1]``.

    Args:
        log_p: The logarithms of the model's probabilities, ``[L, V]`` float32.
    """
    values, ids = log_p.topk(k, dim=1)
    rest = log_p.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)
    return ids.to(torch.int32), torch.cat([values, rest], dim=1)
