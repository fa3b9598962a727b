"""How large a pack may be on a GPU: small ones leave it waiting for the host, and large ones do not fit."""

from array import array

import torch

from promptintern.engine.adapter import Adapter
from promptintern.engine.packing.forward import pack_loss, pack_tensors
from promptintern.engine.packing.layout import Layout, longest_row, prepared
from promptintern.prompt.encode import Encoded

SMALLEST, LARGEST = 2048, 32768
_TOKENS, _ROW = 1024, 128
_SHARE = 0.5
"""Of the memory. The rest is for longer answers than those tried, and for what lies between blocks."""


def tokens_that_fit(adapter: Adapter, layout: Layout, *, vocab_size: int, device: torch.device) -> int | None:
    """Tokens of a pack that takes at most half of the GPU's memory beside the weights, a power of two; None on a CPU.

    It is measured on the model itself: the peak of a forward and backward pass of a thousand tokens, with gradient
    checkpointing if that is on. What other processes hold at the moment does not count, so that a run that goes on
    on the same kind of GPU has the same packs.

    Args:
        layout: One that cascades, whose memory grows with a pack's tokens and not with their square.
        vocab_size: Token ids to draw from.
    """
    if device.type != "cuda":
        return None
    row = int(min(_ROW, longest_row(adapter.model.get_base_model())))
    draw = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(_TOKENS // row):
        ids = memoryview(array("i", torch.randint(vocab_size, (row,), generator=draw).tolist()))
        rows.append(Encoded(prompt_ids=ids[: -row // 8], answer_ids=ids[-row // 8 :]))
    training = adapter.model.training
    adapter.model.train()  # only then are activations left out that are to be computed again
    torch.cuda.reset_peak_memory_stats(device)
    weights = torch.cuda.memory_allocated(device)
    try:
        with prepared(adapter.model, layout):
            pack = pack_tensors(rows, device=device, cascade=True)
            pack_loss(adapter.model, pack).backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        return SMALLEST
    finally:
        adapter.grad.zero_()
        adapter.model.train(training)
    a_token = (torch.cuda.max_memory_allocated(device) - weights) / pack.input_ids.numel()
    return rounded_down(_SHARE * (torch.cuda.mem_get_info(device)[1] - weights) / a_token)


def rounded_down(tokens: float) -> int:
    """To a power of two, within the limits."""
    size = SMALLEST
    while size * 2 <= min(tokens, LARGEST):
        size *= 2
    return size
