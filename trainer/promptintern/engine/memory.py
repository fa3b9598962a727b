"""How large a pack may be on a GPU: small ones leave it waiting for the host, and large ones do not fit."""

from array import array

import torch

from promptintern.engine.forward import pack_loss, pack_tensors
from promptintern.engine.layout import Layout, prepared
from promptintern.engine.lora import Adapter
from promptintern.prompt.encode import Encoded

SMALLEST, LARGEST = 2048, 32768
_ROWS, _PROMPT, _ANSWER = 8, 112, 16
_SHARE = 0.5
"""Of the free memory. The rest is for what only the backward pass has, and for what lies between blocks."""


def tokens_that_fit(adapter: Adapter, layout: Layout, *, vocab_size: int, device: torch.device) -> int | None:
    """Tokens of a pack whose forward pass keeps at most half of what is free, a power of two; None on a CPU.

    It is measured on the model itself, with gradient checkpointing if that is on: on a pack of a thousand tokens.

    Args:
        layout: One that cascades, whose memory grows with a pack's tokens and not with their square.
        vocab_size: Token ids to draw from.
    """
    if device.type != "cuda":
        return None
    draw = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(_ROWS):
        ids = memoryview(array("i", torch.randint(vocab_size, (_PROMPT + _ANSWER,), generator=draw).tolist()))
        rows.append(Encoded(prompt_ids=ids[:_PROMPT], answer_ids=ids[_PROMPT:]))
    training = adapter.model.training
    adapter.model.train()  # only then are activations left out that are to be computed again
    try:
        with prepared(adapter.model, layout):
            pack = pack_tensors(rows, device=device, cascade=True)
            before = torch.cuda.memory_allocated(device)
            loss = pack_loss(adapter.model, pack)
            kept = torch.cuda.memory_allocated(device) - before
            del loss
    finally:
        adapter.model.train(training)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return rounded_down(_SHARE * free / (kept / pack.input_ids.numel()))


def rounded_down(tokens: float) -> int:
    """To a power of two, within the limits: so that a little more or less of free memory makes the same packs."""
    size = SMALLEST
    while size * 2 <= min(tokens, LARGEST):
        size *= 2
    return size
