"""How the rows of a pack lie in it, and whether the model in hand computes them exactly that way."""

import math
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from promptintern.engine.adapter import Adapter
from promptintern.engine.attention.backends import planner_of
from promptintern.engine.attention.registration import cascading, longest_pack, other_layers, rows_apart, sight_of
from promptintern.engine.attention.shared_prefix import Trunk
from promptintern.engine.fused.chunked_loss import chunked_loss
from promptintern.engine.fused.last_layer import answers_only
from promptintern.engine.fused.lora_fp32 import merged
from promptintern.engine.fused.patching import in_mode
from promptintern.engine.fused.rms_norm import quick_norms
from promptintern.engine.fused.swiglu import gated_at_once
from promptintern.engine.packing.forward import PackTensors, grow_trunk, pack_loss, pack_tensors, packs_exactly
from promptintern.prompt.encode import Encoded


class Layout(StrEnum):
    """From the one that any model computes to the fastest."""

    ALONE = "every row in a pack of its own"
    MASKED = "several rows in a pack, a mask between them"
    CASCADE = "several rows in a pack, attention by row"
    SHARED = "several rows in a pack, what their prompts have in common computed once"

    @property
    def packs(self) -> bool:
        """Several rows in a pack."""
        return self is not Layout.ALONE

    @property
    def cascades(self) -> bool:
        """Attention without a mask."""
        return self in (Layout.CASCADE, Layout.SHARED)


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """What a model computes exactly.

    Attributes:
        best: For rows that every layer sees whole.
        long: For rows longer than ``sight`` tokens: MASKED or ALONE.
        sight: How far back every layer sees, None if there is no limit.
        apart: Rows longer than this must not share a call (their positions are scaled together); None if there is none.
        reason: Why ``best`` is not the fastest layout; nothing if it is.
        longest_pack: Tokens of a pack with several rows at most; None if there is no limit.
        fits: Tokens of a pack that the device has memory for, if ``best`` cascades; None if it was not measured.
    """

    best: Layout
    long: Layout
    sight: int | None
    apart: int | None
    reason: str
    longest_pack: int | None = None
    fits: int | None = None

    def for_rows(self, longest: int) -> Layout:
        """The fastest layout for rows of up to ``longest`` tokens."""
        if self.apart is not None and longest > self.apart:
            return Layout.ALONE
        if self.best.cascades and self.sight is not None and longest > self.sight:
            return self.long
        return self.best

    def why_slower(self, longest: int) -> str:
        """Why rows of up to ``longest`` tokens do not lie as ``best`` does, in a sentence; nothing if they do."""
        layout = self.for_rows(longest)
        if layout is self.best:
            return ""
        if self.apart is not None and longest > self.apart:
            return (
                f"Stages with rows longer than {self.apart} tokens are computed row by row: the positions of such rows "
                "are scaled by the longest one of a call."
            )
        how = "row by row" if layout is Layout.ALONE else "with a mask, every row whole"
        return f"Stages with rows longer than {self.sight} tokens are computed {how}: some layer sees no further back."


@contextmanager
def prepared(model: Any, layout: Layout) -> Iterator[None]:
    """Inside, ``model`` (PEFT's) takes packs of ``layout`` for training, and nothing else."""
    with ExitStack() as stack:
        if layout.cascades:
            stack.enter_context(chunked_loss(model))  # first: it tries the model as it is
            stack.enter_context(cascading(model))
            stack.enter_context(merged(model))
            stack.enter_context(gated_at_once(model))
            stack.enter_context(quick_norms(model))
            stack.enter_context(answers_only(model))
        yield


def choose_layouts(adapter: Adapter, *, vocab_size: int, dropout: float, device: torch.device) -> Layouts:
    """The layouts that are exact in this model on this device.

    Not every architecture takes another attention, or reads the rows' borders from position ids (recurrent layers do
    neither), so both are measured on the model itself, which is left as it was.

    Args:
        adapter: Freshly attached.
        vocab_size: Token ids to draw from.
        dropout: Of the adapter's inputs. What several rows share would be dropped for all of them.
        device: Where the model is.
    """
    model = adapter.model.get_base_model()
    with in_mode(adapter.model, training=False):
        masked = packs_exactly(model, vocab_size=vocab_size, device=device)
        fault = cascade_fault(adapter, vocab_size=vocab_size, device=device)
    long = Layout.MASKED if masked else Layout.ALONE
    if not fault:
        best, reason = (Layout.CASCADE, "training.lora.dropout is not 0") if dropout else (Layout.SHARED, "")
    else:
        best, reason = long, fault if masked else f"{type(model).__name__} does not keep rows of one pack apart"
    return Layouts(
        best=best,
        long=long,
        sight=sight_of(model),
        apart=rows_apart(model),
        reason=reason,
        longest_pack=longest_pack(model),
    )


_TRUNK = 6
"""Tokens that the rows begin with that a layout is tried on."""


def cascade_fault(adapter: Adapter, *, vocab_size: int, device: torch.device) -> str:
    """What is wrong with the prefix tree in this model; nothing if loss and gradients are those of rows alone.

    Three random rows are tried, two of them with a common prompt, one with a prompt long enough for a call of
    its own; in one pack, and where trunks pay in two below one. Loss and gradients may differ by rounding only: for
    every LoRA matrix, the norm of the difference by the norm of the gradient is at most 1e-4 in float32. In bfloat16,
    whose rounding step is 2**-8, two exact computations differ by up to a tenth, and a wrong one by about 1; 0.3 tells
    them apart.
    """
    model = adapter.model.get_base_model()
    name = type(model).__name__
    planner = planner_of(device)
    if planner is None:
        return f"there is no attention over trees on {device.type}"
    if others := other_layers(model):
        return f"{name} has layers of another kind ({', '.join(sorted(others))})"
    draw = torch.Generator().manual_seed(0)
    own = max(planner.long + 8, 20)
    if own + 10 > longest_row(model):
        own = 20
    ids = torch.randint(vocab_size, (70 + own,), generator=draw).tolist()
    rows = [
        Encoded(prompt_ids=memoryview(array("i", prompt)), answer_ids=memoryview(array("i", answer)))
        for prompt, answer in (
            (ids[:33], ids[50:54]),
            (ids[:42], ids[54:60]),
            (ids[:_TRUNK] + ids[70 + _TRUNK :], ids[60:70]),
        )
    ]
    parameters = adapter.flat.detach().clone()
    # In a fresh adapter B is zero, and A has no gradient.
    adapter.load_flat(parameters + 0.02 * torch.randn(parameters.shape, generator=draw).to(parameters))
    try:
        loss, expected = _gradient(adapter, [pack_tensors([row], device=device) for row in rows])
        found = [_way(adapter, [rows], trunk=[], device=device)]
        if planner.trunk_saves is not None:
            found.append(_way(adapter, [rows[:2], rows[2:]], trunk=ids[:_TRUNK], device=device))
    except torch.OutOfMemoryError:
        raise  # a moment without memory says nothing about the model
    except Exception as error:  # noqa: BLE001 -- models and kernels refuse in their own ways
        return f"{name} does not take it ({type(error).__name__}: {error})".splitlines()[0]
    finally:
        adapter.load_flat(parameters)
        adapter.grad.zero_()
    precise = next(model.parameters()).dtype is torch.float32
    for other_loss, gradient in found:
        off = _difference(adapter, gradient, expected)
        if off > (1e-4 if precise else 0.3):
            return f"{name} computes other gradients with it (off by {off:.1e})"
        off = abs(other_loss - loss) / abs(loss)
        if off > (1e-4 if precise else 5e-2):
            return f"{name} computes another loss with it (off by {off:.1e})"
    return ""


def _way(
    adapter: Adapter, packs: list[list[Encoded]], *, trunk: list[int], device: torch.device
) -> tuple[float, torch.Tensor]:
    """Summed loss and its gradient of ``packs``, below a trunk if it has tokens."""
    with prepared(adapter.model, Layout.SHARED):
        above = grow_trunk(adapter.model, trunk, device=device) if trunk else None
        tensors = [
            pack_tensors(rows, device=device, cascade=True, shared=True, least_saved=1, trunk=above) for rows in packs
        ]
        return _gradient(adapter, tensors, above)


def longest_row(model: Any) -> float:
    """Tokens of a row that every layer sees whole and that may share a call with others."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min((limit for limit in (sight_of(model), rows_apart(model), positions) if limit), default=math.inf)


_SMALL = 1e-3
"""Of the largest matrix's gradient, below which a matrix's gradient is rounding."""


def _difference(adapter: Adapter, found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative difference of any LoRA matrix's gradient."""
    parts = [(found[s.start : s.stop], expected[s.start : s.stop]) for s in adapter.slots]
    floor = _SMALL * max(b.norm().item() for _, b in parts)
    return max(((a - b).norm().item() / max(b.norm().item(), floor) for a, b in parts), default=0.0)


def _gradient(adapter: Adapter, packs: list[PackTensors], trunk: Trunk | None = None) -> tuple[float, torch.Tensor]:
    """Summed loss and its gradient."""
    adapter.grad.zero_()
    total = 0.0
    for pack in packs:
        loss = pack_loss(adapter.model, pack)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    if trunk:
        trunk.backward()
    return total, adapter.grad.clone()
