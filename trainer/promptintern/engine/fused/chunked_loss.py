"""The loss of answer tokens, computed in chunks so that the logits of a whole pack never exist at once.

With a vocabulary of 128k tokens and 2,000 answer tokens in a pack, the logits, their softmax and the gradient of the
softmax would take 1 GiB each. Here the gradient of a chunk's loss with respect to the hidden states,
``(softmax - one hot) W``, is computed as soon as this loss is known. The matrix products are the same, but in a
different order.
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
"""The number of logits in a chunk, by device type. On a CPU, all lanes may hold a chunk at the same time."""


class _Labels(threading.local):
    """The labels of the pack that the current thread is computing."""

    ids: Tensor


@contextmanager
def chunked_loss(model: Any) -> Iterator[bool]:
    """Make ``model`` return losses instead of logits if it is called with ``answers`` ``[L]`` in the ``with`` block.

    The losses are ``-ln p`` of each answer token, ``[1, L, 1]``. Yield True if the model returns losses. If the model
    changes the logits after its output layer, yield False, and let the model return all logits.
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
    """Return whether the logits of ``model`` are the output of ``head``, neither capped nor scaled."""
    outputs: list[Tensor] = []
    with head.register_forward_hook(lambda _module, _args, output: outputs.append(output)), torch.no_grad():
        ids = torch.arange(8, device=head.weight.device)[None]  # several tokens, as a padding token's logits may be 0
        logits = model(input_ids=ids, use_cache=False).logits
    return len(outputs) == 1 and torch.equal(outputs[0], logits)


def _forward(head: nn.Linear, labels: _Labels, hidden: Tensor) -> Tensor:
    losses: Tensor = _ChunkedLoss.apply(hidden[0], labels.ids, head.weight, head.bias)
    return losses[None, :, None]


def are_losses(logits: Tensor) -> bool:
    """Return whether the output ``logits`` of a model holds losses instead of logits."""
    return logits.shape[-1] == 1


class _ChunkedLoss(torch.autograd.Function):
    """The autograd function that maps hidden states ``[L, D]`` and labels ``[L]`` to ``-ln p`` ``[L]`` in float32."""

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
