"""The size of packs on a GPU: small packs leave the GPU waiting for the host, and large packs do not fit."""

from array import array

import torch

from promptintern.engine.adapter import Adapter
from promptintern.engine.packing.forward import pack_loss, pack_tensors
from promptintern.engine.packing.layout import PackLayout, max_row_tokens, patched_for
from promptintern.prompt.encode import Encoded

MIN_TOKENS, MAX_TOKENS = 2048, 32768
_PROBE_TOKENS, _PROBE_ROW_TOKENS = 1024, 128
_MEMORY_SHARE = 0.5
"""The share that a pack may use of the GPU memory left free by the weights. The rest is for answers longer than
those in the measured pass, and for memory lost to fragmentation."""


def tokens_that_fit(adapter: Adapter, layout: PackLayout, *, vocab_size: int, device: torch.device) -> int | None:
    """Return the number of tokens with which a pack takes at most half of the GPU memory left by the weights.

    The number is derived from the peak memory of a forward and backward pass of about 1,000 tokens on the model itself,
    with gradient checkpointing if it is on. Memory that other processes currently hold counts as free, so that a run
    that resumes on the same kind of GPU has the same packs.

    Args:
        layout: A layout with tree attention, for which memory grows linearly, and not quadratically, with the number of
            tokens in a pack.
        vocab_size: The number of token ids from which random rows are drawn.

    Returns:
        A power of two between 2,048 and 32,768 tokens; None on a CPU.
    """
    if device.type != "cuda":
        return None
    row = int(min(_PROBE_ROW_TOKENS, max_row_tokens(adapter.model.get_base_model())))
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(_PROBE_TOKENS // row):
        ids = memoryview(array("i", torch.randint(vocab_size, (row,), generator=generator).tolist()))
        rows.append(Encoded(prompt_ids=ids[: -row // 8], answer_ids=ids[-row // 8 :]))
    training = adapter.model.training
    adapter.model.train()  # gradient checkpointing works only in training mode
    torch.cuda.reset_peak_memory_stats(device)
    weights = torch.cuda.memory_allocated(device)
    try:
        with patched_for(adapter.model, layout):
            pack = pack_tensors(rows, device=device, tree_attention=True)
            pack_loss(adapter.model, pack).backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        return MIN_TOKENS
    finally:
        adapter.grad.zero_()
        adapter.model.train(training)
    bytes_per_token = (torch.cuda.max_memory_allocated(device) - weights) / pack.input_ids.numel()
    return round_down(_MEMORY_SHARE * (torch.cuda.mem_get_info(device)[1] - weights) / bytes_per_token)


def round_down(tokens: float) -> int:
    """Round ``tokens`` down to a power of two between ``MIN_TOKENS`` and ``MAX_TOKENS``."""
    size = MIN_TOKENS
    while size * 2 <= min(tokens, MAX_TOKENS):
        size *= 2
    return size
