"""The loss of answer tokens, some at a time: logits of a large vocabulary never exist for all of a pack.

With 128k tokens in the vocabulary and 2,000 answer tokens in a pack, logits, their softmax and its gradient would take
three times 1 GiB. A chunk's gradient by the hidden states, ``(softmax - one hot) W``, is taken as soon as its loss is
known, which costs the same products in another order.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from promptintern.engine.fused.patching import base_of, forwards

Tensor = torch.Tensor
_CHUNK = {"cpu": 2**24, "cuda": 2**25}
"""Logits that exist at a time; on a CPU several packs may have as many."""


class _Answers(threading.local):
    """Of the pack that a thread has in hand."""

    wanted: Tensor


@contextmanager
def chunked_loss(model: Any) -> Iterator[bool]:
    """Inside, ``model`` is called with ``answers`` ``[L]`` too, and gives for logits ``-ln p`` of these, ``[1, L, 1]``.

    It gives whether that is so: if the model does more to logits than its output layer does, they are given whole.
    """
    inner = base_of(model)
    head = inner.get_output_embeddings()
    chunks = _is_plain(head) and _ends_with(inner, head)
    answers = _Answers()

    def note(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        answers.wanted = kwargs.pop("answers")
        return args, kwargs

    instead = {head: partial(_forward, head, answers)} if chunks else {}
    with model.register_forward_pre_hook(note, with_kwargs=True), forwards(instead):
        yield chunks


def _is_plain(head: Any) -> bool:
    return type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())


def _ends_with(model: Any, head: nn.Linear) -> bool:
    """Whether the logits are the output of ``head``, neither capped nor scaled."""
    given: list[Tensor] = []
    with head.register_forward_hook(lambda _module, _args, output: given.append(output)), torch.no_grad():
        ids = torch.arange(8, device=head.weight.device)[None]  # several, since a padding token's logits may be 0
        logits = model(input_ids=ids, use_cache=False).logits
    return len(given) == 1 and torch.equal(given[0], logits)


def _forward(head: nn.Linear, answers: _Answers, hidden: Tensor) -> Tensor:
    losses: Tensor = _Losses.apply(hidden[0], answers.wanted, head.weight, head.bias)
    return losses[None, :, None]


def are_losses(logits: Tensor) -> bool:
    """Whether a model gave losses in the place of logits."""
    return logits.shape[-1] == 1


class _Losses(torch.autograd.Function):
    """Hidden states ``[L, D]`` and tokens ``[L]`` to ``-ln p`` ``[L]`` in float32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, answers: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = max(1, _CHUNK[weight.device.type] // len(weight))
        losses, gradients = [], []
        for h, a in zip(torch.split(hidden, rows), torch.split(answers, rows), strict=True):
            log_p = F.log_softmax(F.linear(h, weight, bias).float(), dim=-1)
            losses.append(-log_p.gather(1, a[:, None])[:, 0])
            slope = log_p.exp_()
            slope.scatter_add_(1, a[:, None], slope.new_full((len(a), 1), -1.0))
            gradients.append(slope.to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return (gradients * grad[:, None]).to(gradients.dtype), None, None, None
