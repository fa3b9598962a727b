"""The layouts of rows in a pack, and the tests that find out which layouts a model computes exactly."""

import math
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from promptintern.engine.adapter import Adapter
from promptintern.engine.attention.backends import backend_for
from promptintern.engine.attention.registration import (
    attention_window,
    max_pack_tokens,
    rope_scaling_limit,
    unsupported_layer_types,
    use_tree_attention,
)
from promptintern.engine.attention.shared_prefix import SharedPrefix
from promptintern.engine.fused.chunked_loss import chunked_loss
from promptintern.engine.fused.last_layer import last_layer_for_answers
from promptintern.engine.fused.lora_fp32 import fused_lora
from promptintern.engine.fused.patching import train_mode
from promptintern.engine.fused.rms_norm import fused_rms_norms
from promptintern.engine.fused.swiglu import fused_swiglu
from promptintern.engine.packing.forward import (
    PackTensors,
    compute_shared_prefix,
    pack_loss,
    pack_tensors,
    packs_exactly,
)
from promptintern.prompt.encode import Encoded


class PackLayout(StrEnum):
    """A layout of rows in a pack.

    The layouts are ordered from the slowest, which every model computes exactly, to the fastest.
    """

    UNPACKED = "one row per pack"
    MASKED = "several rows per pack, separated by a mask"
    VARLEN = "several rows per pack, each attending to itself only"
    PREFIX_TREE = "several rows per pack, with common prefixes of prompts computed once"

    @property
    def is_packed(self) -> bool:
        """Whether a pack may hold several rows."""
        return self is not PackLayout.UNPACKED

    @property
    def uses_tree_attention(self) -> bool:
        """Whether tree attention, and not a mask, separates the rows."""
        return self in (PackLayout.VARLEN, PackLayout.PREFIX_TREE)


@dataclass(frozen=True, kw_only=True)
class SupportedLayouts:
    """The layouts that a model computes exactly.

    Attributes:
        best: The fastest layout for rows that exceed neither ``attention_window`` nor ``rope_scaling_limit``.
        for_long_rows: The layout for rows longer than ``attention_window`` tokens: MASKED or UNPACKED.
        attention_window: The largest row length, in tokens, at which every layer attends to the whole row; None if
            there is no limit.
        rope_scaling_limit: The row length, in tokens, above which each row is computed alone, because the model would
            scale its positions by the longest of the rows computed together; None if there is no limit.
        reason: The reason why ``best`` is not the fastest of all layouts; empty if it is.
        max_pack_tokens: The maximum number of tokens in a pack with several rows; None if there is no limit.
        tokens_that_fit: The number of tokens in a pack for which the device has enough memory, if ``best`` uses tree
            attention; None if this number was not measured.
    """

    best: PackLayout
    for_long_rows: PackLayout
    attention_window: int | None
    rope_scaling_limit: int | None
    reason: str
    max_pack_tokens: int | None = None
    tokens_that_fit: int | None = None

    def for_rows(self, longest: int) -> PackLayout:
        """Return the fastest layout for rows of up to ``longest`` tokens."""
        if self.rope_scaling_limit is not None and longest > self.rope_scaling_limit:
            return PackLayout.UNPACKED
        if self.best.uses_tree_attention and self.attention_window is not None and longest > self.attention_window:
            return self.for_long_rows
        return self.best

    def slow_reason(self, longest: int) -> str:
        """Return a sentence that says why rows of up to ``longest`` tokens do not have the layout ``best``.

        Return an empty string if they have this layout.
        """
        layout = self.for_rows(longest)
        if layout is self.best:
            return ""
        if self.rope_scaling_limit is not None and longest > self.rope_scaling_limit:
            return (
                f"Stages with rows longer than {self.rope_scaling_limit} tokens are computed row by row, because the "
                "model scales the positions of such rows by the longest row of a call."
            )
        how = "row by row" if layout is PackLayout.UNPACKED else "with a mask, without sharing prefixes"
        return (
            f"Stages with rows longer than {self.attention_window} tokens are computed {how}, because some layer "
            "attends to no more tokens than that."
        )


@contextmanager
def patched_for(model: Any, layout: PackLayout) -> Iterator[None]:
    """Patch the PEFT model ``model`` to train packs of ``layout`` inside the ``with`` block.

    Inside the block, the model can compute only such packs.
    """
    with ExitStack() as stack:
        if layout.uses_tree_attention:
            stack.enter_context(chunked_loss(model))  # first, because it calls the unpatched model
            stack.enter_context(use_tree_attention(model))
            stack.enter_context(fused_lora(model))
            stack.enter_context(fused_swiglu(model))
            stack.enter_context(fused_rms_norms(model))
            stack.enter_context(last_layer_for_answers(model))
        yield


def probe_layouts(adapter: Adapter, *, vocab_size: int, dropout: float, device: torch.device) -> SupportedLayouts:
    """Test which layouts the model of ``adapter`` computes exactly on ``device``.

    Not every architecture accepts another attention function, or recognizes the beginnings of rows by position ids
    (recurrent layers do neither). So both abilities are tested on the model itself, which is left unchanged.

    Args:
        adapter: A freshly attached adapter.
        vocab_size: The number of token ids from which random rows are drawn.
        dropout: The LoRA dropout. With dropout, no prefix is shared, because all rows would share the same dropped
            inputs.
        device: The device of the model.
    """
    model = adapter.model.get_base_model()
    with train_mode(adapter.model, training=False):
        masks_exactly = packs_exactly(model, vocab_size=vocab_size, device=device)
        fault = tree_attention_fault(adapter, vocab_size=vocab_size, device=device)
    for_long_rows = PackLayout.MASKED if masks_exactly else PackLayout.UNPACKED
    if not fault:
        best, reason = (
            (PackLayout.VARLEN, "training.lora.dropout is not 0") if dropout else (PackLayout.PREFIX_TREE, "")
        )
    else:
        best = for_long_rows
        reason = fault if masks_exactly else f"{type(model).__name__} does not keep the rows of a pack apart"
    return SupportedLayouts(
        best=best,
        for_long_rows=for_long_rows,
        attention_window=attention_window(model),
        rope_scaling_limit=rope_scaling_limit(model),
        reason=reason,
        max_pack_tokens=max_pack_tokens(model),
    )


_PREFIX_TOKENS = 6
"""The number of tokens in the shared prefix of the random rows on which tree attention is tested."""


def tree_attention_fault(adapter: Adapter, *, vocab_size: int, device: torch.device) -> str:
    """Return a message that says what is wrong with tree attention in this model; empty if the results are exact.

    Three random rows are used: two have a long common prefix, and one has a prompt long enough for its own kernel call.
    As the reference, each row is computed without tree attention in a pack of its own. With tree attention, the rows
    are computed in one pack and, if the device's backend uses shared prefixes, also in two packs with a shared prefix.
    Loss and gradients may differ from the reference only by rounding. For every LoRA matrix, the norm of the gradients'
    difference is compared with the norm of that matrix's gradient, or with a thousandth of the largest such norm if
    that is larger. The ratio must be at most 1e-4 in float32. In bfloat16, whose rounding step is 2**-8, two correct
    computations differ by up to 0.1, and a wrong one differs by about 1; the limit is 0.3. The relative difference of
    the losses must be at most 1e-4 in float32, and 5e-2 in bfloat16.
    """
    model = adapter.model.get_base_model()
    name = type(model).__name__
    backend = backend_for(device)
    if backend is None:
        return f"tree attention has no backend for {device.type}"
    if unsupported := unsupported_layer_types(model):
        return f"{name} has layers without softmax attention ({', '.join(sorted(unsupported))})"
    generator = torch.Generator().manual_seed(0)
    own = max(backend.min_call_tokens + 8, 20)
    if own + 10 > max_row_tokens(model):
        own = 20
    ids = torch.randint(vocab_size, (70 + own,), generator=generator).tolist()
    rows = [
        Encoded(prompt_ids=memoryview(array("i", prompt)), answer_ids=memoryview(array("i", answer)))
        for prompt, answer in (
            (ids[:33], ids[50:54]),
            (ids[:42], ids[54:60]),
            (ids[:_PREFIX_TOKENS] + ids[70 + _PREFIX_TOKENS :], ids[60:70]),
        )
    ]
    parameters = adapter.flat.detach().clone()
    # In a fresh adapter, B is zero, so the gradient of A is zero too.
    adapter.load_flat(parameters + 0.02 * torch.randn(parameters.shape, generator=generator).to(parameters))
    try:
        loss, gradient = _loss_and_gradient(adapter, [pack_tensors([row], device=device) for row in rows])
        results = [_tree_loss_and_gradient(adapter, [rows], prefix=[], device=device)]
        if backend.min_prefix_savings is not None:
            prefix = ids[:_PREFIX_TOKENS]
            results.append(_tree_loss_and_gradient(adapter, [rows[:2], rows[2:]], prefix=prefix, device=device))
    except torch.OutOfMemoryError:
        raise  # a temporary lack of memory says nothing about the model
    except Exception as error:  # noqa: BLE001 -- models and kernels raise errors of any type
        return f"{name} does not accept tree attention ({type(error).__name__}: {error})".splitlines()[0]
    finally:
        adapter.load_flat(parameters)
        adapter.grad.zero_()
    is_float32 = next(model.parameters()).dtype is torch.float32
    for tree_loss, tree_gradient in results:
        off = _max_relative_error(adapter, tree_gradient, gradient)
        if off > (1e-4 if is_float32 else 0.3):
            return f"{name} computes other gradients with tree attention (relative difference {off:.1e})"
        off = abs(tree_loss - loss) / abs(loss)
        if off > (1e-4 if is_float32 else 5e-2):
            return f"{name} computes another loss with tree attention (relative difference {off:.1e})"
    return ""


def _tree_loss_and_gradient(
    adapter: Adapter, packs: list[list[Encoded]], *, prefix: list[int], device: torch.device
) -> tuple[float, torch.Tensor]:
    """Return the summed loss of ``packs`` and its gradient ``[P]``, computed with tree attention.

    If ``prefix`` is not empty, its tokens are computed once, as the shared prefix of all packs.
    """
    with patched_for(adapter.model, PackLayout.PREFIX_TREE):
        shared_prefix = compute_shared_prefix(adapter.model, prefix, device=device) if prefix else None
        tensors = [
            pack_tensors(
                rows,
                device=device,
                tree_attention=True,
                share_prefixes=True,
                min_node_savings=1,
                shared_prefix=shared_prefix,
            )
            for rows in packs
        ]
        return _loss_and_gradient(adapter, tensors, shared_prefix)


def max_row_tokens(model: Any) -> float:
    """Return the largest row length, in tokens, up to which rows may share a pack.

    Up to this length, every layer attends to the whole row, the model has a position for every token, and it does not
    scale positions. Return infinity if the model has no such limit.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = (attention_window(model), rope_scaling_limit(model), positions)
    return min((limit for limit in limits if limit), default=math.inf)


_GRADIENT_FLOOR = 1e-3
"""The norm, relative to the largest norm of any matrix's gradient, below which the gradient of a matrix is only
rounding error."""


def _max_relative_error(adapter: Adapter, gradient: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest relative error of ``gradient`` ``[P]`` in any LoRA matrix, given the ``expected`` ``[P]``."""
    pairs = [(gradient[s.start : s.stop], expected[s.start : s.stop]) for s in adapter.slots]
    floor = _GRADIENT_FLOOR * max(b.norm().item() for _, b in pairs)
    return max(((a - b).norm().item() / max(b.norm().item(), floor) for a, b in pairs), default=0.0)


def _loss_and_gradient(
    adapter: Adapter, packs: list[PackTensors], shared_prefix: SharedPrefix | None = None
) -> tuple[float, torch.Tensor]:
    """Return the summed loss of ``packs`` and its gradient ``[P]``."""
    adapter.grad.zero_()
    total = 0.0
    for pack in packs:
        loss = pack_loss(adapter.model, pack)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    if shared_prefix:
        shared_prefix.backward()
    return total, adapter.grad.clone()
