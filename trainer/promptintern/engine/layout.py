"""How the rows of a pack lie in it, and whether the model in hand computes them exactly that way."""

from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import Any

import torch

from promptintern.engine.attention import cascading, window_of
from promptintern.engine.cascade import kernel_of
from promptintern.engine.forward import pack_loss, pack_tensors, packs_exactly
from promptintern.engine.last_layer import answers_only
from promptintern.engine.lora import Adapter
from promptintern.engine.merged import merged
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

    def for_rows(self, model: Any, *, longest: int) -> "Layout":
        """This layout, or the next best if some layer sees fewer than ``longest`` tokens back."""
        window = window_of(model)
        return Layout.MASKED if self.cascades and window is not None and window < longest else self


@contextmanager
def prepared(model: Any, layout: Layout) -> Iterator[None]:
    """Inside, ``model`` (PEFT's) takes packs of ``layout`` for training, and nothing else."""
    with ExitStack() as stack:
        if layout.cascades:
            stack.enter_context(cascading(model))
            stack.enter_context(merged(model))
            stack.enter_context(answers_only(model))
        yield


def choose_layout(adapter: Adapter, *, vocab_size: int, dropout: float, device: torch.device) -> tuple[Layout, str]:
    """The fastest layout that is exact in this model on this device, and why it is not a faster one (or nothing).

    Not every architecture takes another attention, or reads the rows' borders from position ids (recurrent layers do
    neither), so both are measured on the model itself.

    Args:
        adapter: Freshly attached.
        vocab_size: Token ids to draw from.
        dropout: Of the adapter's inputs. What several rows share would be dropped for all of them.
        device: Where the model is.
    """
    name = type(adapter.model.get_base_model()).__name__
    if kernel_of(device) is None:
        reason = f"there is no attention kernel for {device.type}"
    else:
        reason = cascade_fault(adapter, vocab_size=vocab_size, device=device)
        if not reason:
            return (Layout.CASCADE, "training.lora.dropout is not 0") if dropout else (Layout.SHARED, "")
    if packs_exactly(adapter.model.get_base_model(), vocab_size=vocab_size, device=device):
        return Layout.MASKED, reason
    return Layout.ALONE, f"{name} does not keep rows of one pack apart"


def cascade_fault(adapter: Adapter, *, vocab_size: int, device: torch.device) -> str:
    """What is wrong with the prefix tree in this model; nothing if loss and gradients are those of rows alone.

    Three random rows, two of them with a common prompt, may differ by rounding only: 1e-4 of the largest gradient in
    float32, 5e-2 in bfloat16, whose rounding step is 2**-8.
    """
    draw = torch.Generator().manual_seed(0)
    ids = memoryview(array("i", torch.randint(vocab_size, (70,), generator=draw).tolist()))
    rows = [
        Encoded(prompt_ids=ids[:33], answer_ids=ids[50:54]),
        Encoded(prompt_ids=ids[:42], answer_ids=ids[54:60]),
        Encoded(prompt_ids=ids[20:40], answer_ids=ids[60:]),
    ]
    model = adapter.model
    was_training, parameters = model.training, adapter.flat.detach().clone()
    # In a fresh adapter B is zero, and A has no gradient.
    adapter.load_flat(parameters + 0.02 * torch.randn(parameters.shape, generator=draw).to(parameters))
    model.eval()
    try:
        loss, gradient = _gradient(adapter, [pack_tensors([row], device=device) for row in rows])
        with prepared(model, Layout.SHARED):
            found, shared = _gradient(adapter, [pack_tensors(rows, device=device, cascade=True, shared=True)])
    except Exception as error:  # noqa: BLE001 -- models and kernels refuse in their own ways
        return (
            f"{type(model.get_base_model()).__name__} does not take it ({type(error).__name__}: {error})".splitlines()[
                0
            ]
        )
    finally:
        adapter.load_flat(parameters)
        adapter.grad.zero_()
        model.train(was_training)
    tolerance = 1e-4 if next(model.get_base_model().parameters()).dtype is torch.float32 else 5e-2
    off = (shared - gradient).abs().max() / gradient.abs().max()
    if off <= tolerance and abs(found - loss) <= tolerance * abs(loss):
        return ""
    return f"{type(model.get_base_model()).__name__} computes other gradients with it (off by {off.item():.1e})"


def _gradient(adapter: Adapter, packs: list[Any]) -> tuple[float, torch.Tensor]:
    adapter.grad.zero_()
    total = 0.0
    for pack in packs:
        loss = pack_loss(adapter.model, pack)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, adapter.grad.clone()
