"""Packs on a GPU: loss and LoRA gradients of rows in packs of their own, and the same bits every time."""

from typing import Any

import pytest
import torch
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.attention.varlen import VarlenBackend
from promptintern.engine.checkpoint import Trajectory, new_optimizer
from promptintern.engine.packing.layout import PackLayout, probe_layouts
from promptintern.engine.packing.memory import MAX_TOKENS, MIN_TOKENS, tokens_that_fit
from promptintern.engine.packing.planning import plan_steps
from promptintern.engine.train import LrSpan, TrackTask, train_track
from promptintern.pipeline.inputs import length_of
from promptintern_api.training import Lora, TrainingSpec

from tests.tiny import VOCABULARY, tiny_model
from tests.unit.engine.adapters import gradient, with_random_lora
from tests.unit.engine.packing.test_layout import FULL_ATTENTION, assert_same, in_order, rounding
from tests.unit.engine.rows import random_family

GPU = torch.device("cuda")


def on_gpu(architecture: str, dtype: torch.dtype) -> Any:
    return tiny_model(architecture).to(GPU, dtype)


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
@pytest.mark.parametrize("layout", [PackLayout.VARLEN, PackLayout.PREFIX_TREE])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("min_node_savings", [1, 512])
def test_loss_and_gradients_are_those_of_rows_alone(
    architecture: str, layout: PackLayout, seed: int, min_node_savings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VarlenBackend, "min_node_savings", min_node_savings)
    adapter = with_random_lora(on_gpu(architecture, torch.float32))
    rows = in_order(random_family(seed, 30))
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    assert_same(adapter, gradient(adapter, [rows], layout), alone)


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bfloat16_rounds_no_more_than_rows_alone_do(
    architecture: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VarlenBackend, "min_node_savings", 1)
    alone, packed = rounding(lambda: on_gpu(architecture, torch.bfloat16), in_order(random_family(seed, 30)))
    assert 0 < packed <= 1.5 * alone


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fastest_layout_is_chosen(architecture: str, dtype: torch.dtype) -> None:
    adapter = attach_lora(on_gpu(architecture, dtype), Lora(r=4, alpha=8), seed=0)
    layouts = probe_layouts(adapter, vocab_size=VOCABULARY, dropout=0.0, device=GPU)
    assert (layouts.best, layouts.reason) == (PackLayout.PREFIX_TREE, "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_ends_in_the_same_bits(dtype: torch.dtype) -> None:
    first, second = (train(dtype) for _ in range(2))
    assert torch.equal(first.flat, second.flat)
    assert not torch.equal(first.flat, first.initial)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pack_size_follows_the_memory(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = attach_lora(on_gpu("llama", dtype), Lora(r=4, alpha=8), seed=0)
    taken = torch.cuda.memory_allocated(GPU)

    def fits(free: float) -> int:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (0, free))
        tokens = tokens_that_fit(adapter, PackLayout.PREFIX_TREE, vocab_size=VOCABULARY, device=GPU)
        assert tokens is not None
        return tokens

    assert fits(2.0**37) == MAX_TOKENS
    assert fits(2.0**12) == MIN_TOKENS
    sizes = [fits(2.0**power) for power in range(20, 37)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 2
    assert torch.cuda.memory_allocated(GPU) <= taken + 2**20, "no memory is kept"


def train(dtype: torch.dtype) -> Adapter:
    torch.manual_seed(0)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8
    )
    adapter = attach_lora(LlamaForCausalLM(config).to(GPU, dtype), Lora(r=8, alpha=16), seed=0)
    rows = random_family(0, 60, template=300)
    steps = plan_steps(
        [length_of(row) for row in rows],
        seed=(0,),
        epochs=1,
        tokens_per_batch=2**40,
        rows_per_batch=20,
        tokens_per_pack=1024,
        pack=True,
        world_size=1,
        prefixes=Prefixes([row.prompt_ids for row in rows]),
    )
    train_track(
        adapter,
        new_optimizer(adapter, weight_decay=0.0),
        TrackTask(
            name="test",
            seed=(0,),
            rows=rows,
            steps=steps,
            layout=PackLayout.PREFIX_TREE,
            lr_span=LrSpan(first=0, total=len(steps)),
        ),
        training=TrainingSpec(learning_rate=1e-3),
        trajectory=Trajectory(),
        device=GPU,
        stop_requested=lambda: False,
        after_step=lambda _trajectory: None,
    )
    return adapter
