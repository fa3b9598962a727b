"""The output layer for answer tokens, computed in chunks so that the logits of a whole pack never exist at once.

With a vocabulary of 128k tokens and 2,000 answer tokens in a pack, the logits, their softmax and the gradient of the
softmax would take 1 GiB each. Here the gradient of a chunk's loss with respect to the hidden states (for a
cross-entropy, ``(softmax - one hot) W``) is computed as soon as this loss is known. The matrix products are the same,
but in a different order.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from promptintern.engine.answer_loss import AnswerTargets, answer_losses, top_k
from promptintern.engine.fused.patching import base_of, patched_forwards

Tensor = torch.Tensor
_CHUNK_LOGITS = {"cpu": 2**24, "cuda": 2**25}
"""The number of logits in a chunk, by device type. On a CPU, all lanes may hold a chunk at the same time."""


class TopKRequest:
    """A request for the model's distributions at the answer tokens of a pack, instead of losses.

    Attributes:
        k: The number of tokens of each distribution; all other tokens together are one further outcome.
        ids: The most likely tokens, ``[L, k]`` int32. The model sets this attribute and the next one.
        log_probs: The log-probabilities of all outcomes, ``[L, k + 1]`` float32.
    """

    ids: Tensor
    log_probs: Tensor

    def __init__(self, k: int) -> None:
        self.k = k


class _Request(threading.local):
    """What the current thread wants to know about the answer tokens of the pack that it is computing."""

    answers: AnswerTargets | TopKRequest


@contextmanager
def chunked_loss(model: Any) -> Iterator[bool]:
    """Make ``model`` return losses instead of logits in the ``with`` block if it is called with ``answers``.

    ``answers`` are the targets of the ``L`` answer tokens, and the losses have the shape ``[1, L, 1]``. If ``answers``
    is a ``TopKRequest``, the model fulfils the request, and the losses are 0. Yield True if the model returns losses.
    If the model changes the logits after its output layer, yield False, and let the model return all logits.
    """
    inner = base_of(model)
    head = inner.get_output_embeddings()
    is_chunked = _is_plain(head) and _returns_output_of(inner, head)
    request = _Request()

    def capture(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        request.answers = kwargs.pop("answers")
        return args, kwargs

    forwards = {head: partial(_forward, head, request)} if is_chunked else {}
    with model.register_forward_pre_hook(capture, with_kwargs=True), patched_forwards(forwards):
        yield is_chunked


def _is_plain(head: Any) -> bool:
    return type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())


def _returns_output_of(model: Any, head: nn.Linear) -> bool:
    """Return whether the logits of ``model`` are the output of ``head``, neither capped nor scaled."""
    outputs: list[Tensor] = []
    with head.register_forward_hook(lambda _module, _args, output: outputs.append(output)), torch.no_grad():
        ids = torch.arange(8, device=head.weight.device)[None]  # several tokens, as a padding token's logits may be 0
        logits = model(input_ids=ids, use_cache=False).logits
    return len(outputs) == 1 and torch.equal(outputs[0], logits)


def _forward(head: nn.Linear, request: _Request, hidden: Tensor) -> Tensor:
    answers = request.answers
    if isinstance(answers, TopKRequest):
        _fulfil(answers, head, hidden[0])
        return hidden.new_zeros(1, hidden.shape[1], 1)
    losses: Tensor = _ChunkedLoss.apply(hidden[0], answers, head.weight, head.bias)
    return losses[None, :, None]


def _fulfil(request: TopKRequest, head: nn.Linear, hidden: Tensor) -> None:
    rows = max(1, _CHUNK_LOGITS[hidden.device.type] // (2 * len(head.weight)))
    chunks = [
        top_k(F.log_softmax(F.linear(h, head.weight, head.bias).float(), dim=-1), request.k)
        for h in torch.split(hidden, rows)
    ]
    request.ids, request.log_probs = (torch.cat(parts) for parts in zip(*chunks, strict=True))


def are_losses(logits: Tensor) -> bool:
    """Return whether the output ``logits`` of a model holds losses instead of logits."""
    return logits.shape[-1] == 1


class _ChunkedLoss(torch.autograd.Function):
    """The autograd function that maps hidden states ``[L, D]`` and targets to the losses ``[L]`` in float32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, answers: AnswerTargets, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = max(1, _CHUNK_LOGITS[weight.device.type] // (answers.buffers * len(weight)))
        losses, gradients = [], []
        for h, targets in zip(torch.split(hidden, rows), answers.split(rows), strict=True):
            loss, slope = answer_losses(F.log_softmax(F.linear(h, weight, bias).float(), dim=-1), targets)
            losses.append(loss)
            gradients.append(slope.to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return (gradients * grad[:, None]).to(gradients.dtype), None, None, None
