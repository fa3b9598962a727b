"""The loss of answer tokens in chunks, so that the logits of a large vocabulary never exist for a whole pack.

With 128k tokens in the vocabulary and 2,000 answer tokens in a pack, the logits, their softmax and its gradient would
take 1 GiB each. Here the gradient of a chunk with respect to the hidden states, ``(softmax - one hot) W``, is computed
as soon as the chunk's loss is known. This takes the same matrix products in another order.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from promptintern.engine.fused.patching import base_of, patched_forwards

Tensor = torch.Tensor
_CHUNK_LOGITS = {"cpu": 2**24, "cuda": 2**25}
"""Number of logits in a chunk. On a CPU, each lane may hold as many at the same time."""


class _Labels(threading.local):
    """The labels of the pack that the current thread computes."""

    ids: Tensor


@contextmanager
def chunked_loss(model: Any) -> Iterator[bool]:
    """Inside this block, calling ``model`` with ``answers`` ``[L]`` returns losses in place of logits.

    The losses are ``-ln p`` of each answer token, ``[1, L, 1]``. Yields True if this is so. If the model does more to
    its logits than its output layer does, yields False, and calls return the whole logits.
    """
    inner = base_of(model)
    head = inner.get_output_embeddings()
    is_chunked = _is_plain(head) and _returns_output_of(inner, head)
    labels = _Labels()

    def capture(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        labels.ids = kwargs.pop("answers")
        return args, kwargs

    forwards = {head: partial(_forward, head, labels)} if is_chunked else {}
    with model.register_forward_pre_hook(capture, with_kwargs=True), patched_forwards(forwards):
        yield is_chunked


def _is_plain(head: Any) -> bool:
    return type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())


def _returns_output_of(model: Any, head: nn.Linear) -> bool:
    """Whether the model's logits are the output of ``head``, neither capped nor scaled."""
    outputs: list[Tensor] = []
    with head.register_forward_hook(lambda _module, _args, output: outputs.append(output)), torch.no_grad():
        ids = torch.arange(8, device=head.weight.device)[None]  # several, since a padding token's logits may be 0
        logits = model(input_ids=ids, use_cache=False).logits
    return len(outputs) == 1 and torch.equal(outputs[0], logits)


def _forward(head: nn.Linear, labels: _Labels, hidden: Tensor) -> Tensor:
    losses: Tensor = _ChunkedLoss.apply(hidden[0], labels.ids, head.weight, head.bias)
    return losses[None, :, None]


def are_losses(logits: Tensor) -> bool:
    """Whether a model returned losses in place of logits."""
    return logits.shape[-1] == 1


class _ChunkedLoss(torch.autograd.Function):
    """Maps hidden states ``[L, D]`` and labels ``[L]`` to ``-ln p`` ``[L]`` in float32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = max(1, _CHUNK_LOGITS[weight.device.type] // len(weight))
        losses, gradients = [], []
        for h, y in zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True):
            log_p = F.log_softmax(F.linear(h, weight, bias).float(), dim=-1)
            losses.append(-log_p.gather(1, y[:, None])[:, 0])
            slope = log_p.exp_()
            slope.scatter_add_(1, y[:, None], slope.new_full((len(y), 1), -1.0))
            gradients.append(slope.to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients,) = ctx.saved_tensors
        return (gradients * grad[:, None]).to(gradients.dtype), None, None, None
