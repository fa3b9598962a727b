"""The loss at answer tokens and its gradient are those of the written-out formulas, computed in float64 by autograd."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from promptintern.engine import answer_loss
from promptintern.engine.answer_loss import (
    AnswerTargets,
    LossOfLogits,
    Teaching,
    answer_losses,
    top_k,
    top_k_of_logits,
)
from promptintern_api.training import TeacherLoss

TOKENS, VOCABULARY = 5, 23
DIVERGENCES = [TeacherLoss.FORWARD_KL, TeacherLoss.JENSEN_SHANNON]


def outcomes(log_p: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the probabilities of the tokens ``ids``, and of all other tokens together if there are others."""
    p = log_p.exp()
    others = torch.ones_like(p).scatter(1, ids, 0.0)
    rest = [(p * others).sum(1, keepdim=True)] if ids.shape[1] < VOCABULARY else []
    return torch.cat([p.gather(1, ids), *rest], dim=1)


def reference(logits: torch.Tensor, targets: AnswerTargets) -> torch.Tensor:
    """Return the losses ``[L]`` by the definitions of cross-entropy and of both divergences."""
    log_p = torch.log_softmax(logits, dim=1)
    weights = targets.weights if targets.weights is not None else torch.ones(len(logits))
    losses = -weights.double() * log_p.gather(1, targets.labels[:, None])[:, 0]
    teaching = targets.teaching
    if teaching is None:
        return losses
    p = outcomes(log_p, teaching.ids)
    q = teaching.log_probs.double().exp()[:, : p.shape[1]]
    if teaching.loss is TeacherLoss.FORWARD_KL:
        divergence = (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(1)
    else:
        m = (p + q) / 2
        divergence = (torch.xlogy(q, q) - torch.xlogy(q, m) + torch.xlogy(p, p) - torch.xlogy(p, m)).sum(1) / 2
    return losses + torch.where(teaching.weights > 0, teaching.weights.double() * divergence, 0.0)


def teaching_of(logits: torch.Tensor, k: int, loss: TeacherLoss, weights: list[float]) -> Teaching:
    ids, log_probs = top_k(torch.log_softmax(logits, dim=1), k)
    return Teaching(ids=ids.long(), log_probs=log_probs, weights=torch.tensor(weights), loss=loss)


def check(logits: torch.Tensor, targets: AnswerTargets) -> None:
    """Compare losses and gradients with the reference, relative to the largest gradient of the reference."""
    double = logits.double().requires_grad_()
    expected = reference(double, targets)
    expected.sum().backward()
    assert double.grad is not None
    losses, slope = answer_losses(torch.log_softmax(logits, dim=1), targets)
    assert torch.allclose(losses.double(), expected, rtol=1e-5, atol=1e-6)
    assert (slope.double() - double.grad).abs().max() <= 1e-5 * max(1.0, double.grad.abs().max().item())
    single = logits.clone().requires_grad_()
    LossOfLogits.apply(single, targets).sum().backward()
    assert single.grad is not None
    assert torch.allclose(single.grad, slope)


def random_logits(seed: int, scale: float) -> torch.Tensor:
    return torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale


@given(
    st.integers(0, 10**6),
    st.floats(0.01, 30),
    st.floats(0.01, 30),
    st.integers(1, VOCABULARY),
    st.sampled_from(DIVERGENCES),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=TOKENS, max_size=TOKENS),
    st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=TOKENS, max_size=TOKENS) | st.none(),
)
@example(0, 1.0, 1.0, VOCABULARY, TeacherLoss.FORWARD_KL, [1.0] * TOKENS, None)  # no other token is left
@example(0, 1.0, 1.0, VOCABULARY, TeacherLoss.JENSEN_SHANNON, [1.0] * TOKENS, None)
def test_loss_and_gradient_are_those_of_the_formulas(
    seed: int,
    scale: float,
    teacher_scale: float,
    k: int,
    loss: TeacherLoss,
    weights: list[float],
    label_weights: list[float] | None,
) -> None:
    teacher = random_logits(seed + 1, teacher_scale)
    targets = AnswerTargets(
        labels=teacher.argmax(1),
        weights=None if label_weights is None else torch.tensor(label_weights),
        teaching=teaching_of(teacher, k, loss, weights),
    )
    check(random_logits(seed, scale), targets)


def test_without_a_teacher_it_is_weighted_cross_entropy() -> None:
    logits = random_logits(0, 2.0)
    labels = logits.argmin(1)
    check(logits, AnswerTargets(labels=labels))
    check(logits, AnswerTargets(labels=labels, weights=torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0])))


@pytest.mark.parametrize("loss", DIVERGENCES)
@pytest.mark.parametrize("k", [1, 4, VOCABULARY])
def test_a_model_that_equals_its_teacher_has_no_loss(loss: TeacherLoss, k: int) -> None:
    logits = random_logits(3, 4.0)
    targets = AnswerTargets(
        labels=logits.argmax(1),
        weights=torch.zeros(TOKENS),
        teaching=teaching_of(logits, k, loss, [1.0] * TOKENS),
    )
    losses, slope = answer_losses(torch.log_softmax(logits, dim=1), targets)
    assert losses.abs().max() < 1e-5
    assert slope.abs().max() < 1e-5


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_extreme_distributions_have_finite_losses_and_gradients(loss: TeacherLoss) -> None:
    certain = torch.full((1, VOCABULARY), -1e4)
    certain[0, 3] = 0.0
    teacher = certain.roll(1, dims=1)
    for k in (1, 5, VOCABULARY):
        targets = AnswerTargets(
            labels=torch.tensor([4]), weights=torch.zeros(1), teaching=teaching_of(teacher, k, loss, [1.0])
        )
        losses, slope = answer_losses(torch.log_softmax(certain, dim=1), targets)
        assert math.isfinite(losses.item())
        assert slope.isfinite().all()


def test_a_token_without_a_teacher_ignores_its_distribution() -> None:
    logits = random_logits(0, 50.0)
    empty = Teaching(
        ids=torch.zeros(TOKENS, 2, dtype=torch.int64),
        log_probs=torch.full((TOKENS, 3), -math.inf),
        weights=torch.zeros(TOKENS),
        loss=TeacherLoss.JENSEN_SHANNON,
    )
    labels = logits.argmin(1)
    with_empty = answer_losses(torch.log_softmax(logits, dim=1), AnswerTargets(labels=labels, teaching=empty))
    plain = answer_losses(torch.log_softmax(logits, dim=1), AnswerTargets(labels=labels))
    assert torch.equal(with_empty[0], plain[0])
    assert torch.allclose(with_empty[1], plain[1])


def test_top_k_and_the_rest_are_a_distribution() -> None:
    log_p = torch.log_softmax(random_logits(5, 3.0), dim=1)
    ids, log_probs = top_k(log_p, 4)
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(TOKENS))
    assert torch.equal(log_probs[:, :4], log_p.gather(1, ids.long()))
    assert (log_p.scatter(1, ids.long(), -math.inf).max(1).values <= log_probs[:, 3]).all()


def test_losses_of_logits_are_computed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits(0, 2.0)
    targets = AnswerTargets(
        labels=logits.argmin(1), teaching=teaching_of(random_logits(1, 2.0), 3, TeacherLoss.JENSEN_SHANNON, [1.0] * 5)
    )
    results = []
    for chunk in (2**24, 8 * VOCABULARY, 1):  # all tokens, two tokens, one token
        monkeypatch.setattr(answer_loss, "_CHUNK_LOGITS", chunk)
        leaf = logits.clone().requires_grad_()
        LossOfLogits.apply(leaf, targets).sum().backward()
        ids, log_probs = top_k_of_logits(logits, 4)
        results.append((leaf.grad, ids, log_probs))
    for others in results[1:]:
        assert all(torch.allclose(a, b) for a, b in zip(results[0], others, strict=True))


def test_targets_are_split_with_everything_that_belongs_to_a_token() -> None:
    targets = AnswerTargets(
        labels=torch.arange(TOKENS),
        weights=torch.arange(TOKENS) / 10,
        teaching=teaching_of(random_logits(0, 1.0), 3, TeacherLoss.FORWARD_KL, [0.0, 1.0, 2.0, 3.0, 4.0]),
    )
    parts = list(targets.split(2))
    assert [len(part.labels) for part in parts] == [2, 2, 1]
    whole = answer_losses(torch.log_softmax(random_logits(1, 1.0), dim=1), targets)
    in_parts = [
        answer_losses(torch.log_softmax(rows, dim=1), part)
        for rows, part in zip(random_logits(1, 1.0).split(2), parts, strict=True)
    ]
    assert torch.allclose(torch.cat([losses for losses, _ in in_parts]), whole[0])
    assert torch.allclose(torch.cat([slope for _, slope in in_parts]), whole[1])
