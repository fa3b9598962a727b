"""Adapters with random weights, and the gradients of packs, for tests."""

from typing import Any

import torch
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.engine.attention.backends import min_node_savings_on
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.backward import compute_gradients
from promptintern.engine.lanes import lane_pool
from promptintern.engine.packing.forward import compute_shared_prefix, pack_loss, pack_tensors
from promptintern.engine.packing.layout import PackLayout, patched_for
from promptintern.engine.packing.planning import StepPlan, plan_steps
from promptintern.engine.throughput import activity_clock
from promptintern.pipeline.inputs import length_of
from promptintern.prompt.encode import Encoded
from promptintern_api.training import Lora

CPU = torch.device("cpu")


def with_random_lora(model: Any, **lora: Any) -> Adapter:
    """Return ``model`` with a LoRA adapter whose matrices are all random, in training mode."""
    adapter = attach_lora(model, Lora(r=4, alpha=8, **lora), seed=0)
    # B starts at zero, which would leave A without gradients.
    noise = torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(1))
    adapter.load_flat(noise.to(adapter.flat.device) * 0.05)
    adapter.model.train()
    return adapter


def gradient(
    adapter: Adapter, packs: list[list[Encoded]], layout: PackLayout, *, prefix_tokens: int = 0
) -> tuple[float, torch.Tensor]:
    """Return the mean loss per answer token of ``packs`` and its gradient ``[P]``.

    The packs are computed one after another on the adapter's device, below a shared prefix of ``prefix_tokens`` tokens.
    """
    device = adapter.flat.device
    adapter.grad.zero_()
    tokens = sum(len(row.answer_ids) for pack in packs for row in pack)
    total = 0.0
    with patched_for(adapter.model, layout):
        ids = packs[0][0].prompt_ids[:prefix_tokens]
        shared_prefix = compute_shared_prefix(adapter.model, ids, device=device) if prefix_tokens else None
        for rows in packs:
            tensors = pack_tensors(
                rows,
                device=device,
                tree_attention=layout.uses_tree_attention,
                share_prefixes=layout is PackLayout.PREFIX_TREE,
                shared_prefix=shared_prefix,
            )
            loss = pack_loss(adapter.model, tensors) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if shared_prefix:
            shared_prefix.backward()
    return total, adapter.grad.clone()


def gradient_of_step(
    adapter: Adapter, rows: list[Encoded], *, lanes: int, tokens: int, min_prefix_savings: int | None
) -> tuple[float, torch.Tensor, StepPlan]:
    """Return what ``gradient`` does, for one step that is planned for ``lanes`` and ``tokens``, and the step's plan."""
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
        min_node_savings=min_node_savings_on(CPU),
        min_prefix_savings=min_prefix_savings,
    )
    with patched_for(adapter.model, PackLayout.PREFIX_TREE), lane_pool(lanes) as pool:
        loss, computed = compute_gradients(
            adapter, rows, step, PackLayout.PREFIX_TREE, pool=pool, device=CPU, clock=activity_clock(CPU)
        )
    assert computed == step.computed
    return loss / step.loss_tokens, adapter.grad.clone(), step
