"""Adapters with something to learn, and the gradients that packs give them, for tests."""

from typing import Any

import torch
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.engine.attention.backends import least_saved_on
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.backward import gradients
from promptintern.engine.lanes import threads_of
from promptintern.engine.packing.forward import grow_trunk, pack_loss, pack_tensors
from promptintern.engine.packing.layout import Layout, prepared
from promptintern.engine.packing.planning import StepPlan, plan_steps
from promptintern.engine.throughput import clock_of
from promptintern.pipeline.inputs import length_of
from promptintern.prompt.encode import Encoded
from promptintern_api.training import Lora

CPU = torch.device("cpu")


def with_random_lora(model: Any, **lora: Any) -> Adapter:
    """``model`` with a LoRA whose matrices are all random, in training mode."""
    adapter = attach_lora(model, Lora(r=4, alpha=8, **lora), seed=0)
    # B starts at zero, which would leave A without gradients.
    noise = torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(1))
    adapter.load_flat(noise.to(adapter.flat.device) * 0.05)
    adapter.model.train()
    return adapter


def gradient(
    adapter: Adapter, packs: list[list[Encoded]], layout: Layout, *, trunk: int = 0
) -> tuple[float, torch.Tensor]:
    """Mean loss per answer token and its gradient ``[P]``, of ``packs`` that are computed one after another, where the
    adapter is, below a trunk of so many tokens."""
    device = adapter.flat.device
    adapter.grad.zero_()
    tokens = sum(len(row.answer_ids) for pack in packs for row in pack)
    total = 0.0
    with prepared(adapter.model, layout):
        ids = packs[0][0].prompt_ids[:trunk]
        above = grow_trunk(adapter.model, ids, device=device) if trunk else None
        for rows in packs:
            tensors = pack_tensors(
                rows, device=device, cascade=layout.cascades, shared=layout is Layout.SHARED, trunk=above
            )
            loss = pack_loss(adapter.model, tensors) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if above:
            above.backward()
    return total, adapter.grad.clone()


def gradient_of_step(
    adapter: Adapter, rows: list[Encoded], *, lanes: int, tokens: int, trunk_saves: int | None
) -> tuple[float, torch.Tensor, StepPlan]:
    """As ``gradient``, of one step that is planned for ``lanes`` and ``tokens`` at a time; the third is its plan."""
    (step,) = plan_steps(
        [length_of(row) for row in rows],
        seed=(0,),
        epochs=1,
        tokens_per_batch=2**40,
        rows_per_batch=None,
        tokens_per_pack=tokens,
        pack=True,
        world_size=1,
        lanes=lanes,
        prefixes=Prefixes([row.prompt_ids for row in rows]),
        least_saved=least_saved_on(CPU),
        trunk_saves=trunk_saves,
    )
    with prepared(adapter.model, Layout.SHARED), threads_of(lanes) as threads:
        loss, computed = gradients(adapter, rows, step, Layout.SHARED, threads=threads, device=CPU, clock=clock_of(CPU))
    assert computed == step.computed
    return loss / step.loss_tokens, adapter.grad.clone(), step
