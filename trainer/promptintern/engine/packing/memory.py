"""How many tokens a pack may have on a GPU: small packs leave it waiting for the host, and large ones do not fit."""

from array import array

import torch

from promptintern.engine.adapter import Adapter
from promptintern.engine.packing.forward import pack_loss, pack_tensors
from promptintern.engine.packing.layout import PackLayout, max_row_tokens, patched_for
from promptintern.prompt.encode import Encoded

MIN_TOKENS, MAX_TOKENS = 2048, 32768
_PROBE_TOKENS, _PROBE_ROW_TOKENS = 1024, 128
_MEMORY_SHARE = 0.5
"""The share of the memory that a pack may take. The rest is for answers longer than those tried, and for fragmentation
between blocks."""


def tokens_that_fit(adapter: Adapter, layout: PackLayout, *, vocab_size: int, device: torch.device) -> int | None:
    """Return how many tokens a pack may have to take at most half of the GPU's memory beside the weights.

    This is measured on the model itself, as the peak memory of a forward and backward pass of a thousand tokens, with
    gradient checkpointing if it is on. Memory that other processes hold at the moment does not count, so that a run
    that resumes on the same kind of GPU has the same packs.

    Args:
        layout: A layout with tree attention, whose memory grows with a pack's tokens and not with their square.
        vocab_size: Number of token ids from which to draw random rows.

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
    adapter.model.train()  # gradient checkpointing only works in training mode
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
    """Round ``tokens`` down to a power of two within the limits."""
    size = MIN_TOKENS
    while size * 2 <= min(tokens, MAX_TOKENS):
        size *= 2
    return size
