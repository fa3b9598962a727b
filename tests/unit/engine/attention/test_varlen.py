"""The varlen backend with a kernel in plain PyTorch: loss and gradients are those of rows in packs of their own."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptintern.engine.attention.varlen import VarlenBackend, VarlenBatch, _deterministic
from promptintern.engine.packing.forward import pack_tensors
from promptintern.engine.packing.layout import PackLayout

from tests.tiny import tiny_model
from tests.unit.engine.adapters import CPU, with_random_lora
from tests.unit.engine.packing.test_layout import FULL_ATTENTION, assert_same, gradient, in_order
from tests.unit.engine.rows import random_family, random_rows

Tensor = torch.Tensor
SHARED: dict[str, Any] = {"device": CPU, "tree_attention": True, "share_prefixes": True}


class PlainKernel:
    """Softmax attention of one sequence after another, and its derivatives as in a textbook."""

    def __init__(self) -> None:
        self.calls = 0

    def _probabilities(
        self, q: Tensor, k: Tensor, lse: Tensor | None, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if causal:
            hidden = torch.ones(len(q), len(k), dtype=torch.bool).triu(1 + len(k) - len(q))
            scores = scores.masked_fill(hidden, float("-inf"))
        lse = scores.logsumexp(-1) if lse is None else lse.t()
        return torch.exp(scores - lse[..., None]), lse.t()

    def _sequences(self, batch: VarlenBatch) -> list[tuple[slice, slice]]:
        self.calls += 1
        queries, keys = (
            [slice(a, b) for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
            for ends in (batch.cu_seqlens_q, batch.cu_seqlens_k)
        )
        assert batch.max_seqlen_q == max(s.stop - s.start for s in queries)
        assert batch.max_seqlen_k == max(s.stop - s.start for s in keys)
        cells = [(n, i) for n, s in enumerate(queries) for i in range(s.stop - s.start)]
        assert list(zip(*(c.tolist() for c in batch.query_cells), strict=True)) == cells
        return list(zip(queries, keys, strict=True))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: VarlenBatch, *, scale: float) -> tuple[Tensor, Tensor]:
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        outs, sums = [], []
        for queries, keys in self._sequences(batch):
            p, lse = self._probabilities(q[queries], k[keys], None, causal=batch.causal, scale=scale)
            outs.append(torch.einsum("hqk,khd->qhd", p, v[keys]))
            sums.append(lse)
        return torch.cat(outs), torch.cat(sums)

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        batch: VarlenBatch,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        dqs, dks, dvs = [], [], []
        for queries, keys in self._sequences(batch):
            p, _ = self._probabilities(q[queries], k[keys], lse[queries], causal=batch.causal, scale=scale)
            dp = torch.einsum("qhd,khd->hqk", grad[queries], v[keys])
            ds = p * (dp - (grad[queries] * out[queries]).sum(-1).t()[..., None]) * scale
            dqs.append(torch.einsum("hqk,khd->qhd", ds, k[keys]))
            dks.append(torch.einsum("hqk,qhd->khd", ds, q[queries]))
            dvs.append(torch.einsum("hqk,qhd->khd", p, grad[queries]))
        dk, dv = (torch.cat(x).view(-1, heads, groups, k.shape[-1]).sum(2) for x in (dks, dvs))
        return torch.cat(dqs), dk, dv


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> PlainKernel:
    """The kernel of the varlen backend, which the tests' CPU uses in place of its own."""
    kernel = PlainKernel()
    monkeypatch.setattr("promptintern.engine.attention.varlen.kernel_for", lambda _q, _v: kernel)
    monkeypatch.setattr("promptintern.engine.packing.forward.backend_for", lambda _device: VarlenBackend())
    monkeypatch.setattr(VarlenBackend, "min_node_savings", 16)
    return kernel


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
@pytest.mark.parametrize("layout", [PackLayout.VARLEN, PackLayout.PREFIX_TREE])
def test_loss_and_gradients_are_those_of_rows_alone(architecture: str, layout: PackLayout, kernel: PlainKernel) -> None:
    adapter = with_random_lora(tiny_model(architecture))
    rows = in_order(random_family(0, 9))
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    assert_same(adapter, gradient(adapter, [rows], layout), alone)
    assert kernel.calls


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 90), st.integers(1, 90))
def test_any_tree(kernel: PlainKernel, seed: int, count: int, template: int, longest: int) -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = in_order(random_family(seed, count, template=template, longest=longest))
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    assert_same(adapter, gradient(adapter, [rows], PackLayout.PREFIX_TREE), alone)
    packs = [pack for pack in (rows[:3], rows[3:]) if pack]
    assert_same(adapter, gradient(adapter, packs, PackLayout.PREFIX_TREE, prefix_tokens=template), alone)


def test_deterministic_algorithms_are_on_inside_the_block_only() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="out"), _deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("out")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_there_is_one_call_for_every_level_of_the_tree(kernel: PlainKernel) -> None:
    model: Any = tiny_model("llama")
    adapter = with_random_lora(model)
    for rows, levels in ((random_rows(0, 9), 0), (in_order(random_family(0, 40)), 2)):
        kernel.calls = 0
        gradient(adapter, [rows], PackLayout.PREFIX_TREE)
        layers, passes = model.config.num_hidden_layers, 2
        assert kernel.calls == layers * passes * (1 + levels)


def test_nodes_that_save_less_than_a_level_costs_are_not_shared(kernel: PlainKernel) -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = in_order(random_family(0, 40))
    levels = [
        1 + len(pack_tensors(rows, **SHARED, min_node_savings=n).attention.inner_layers.dense) for n in (16, 512, 2000)
    ]
    assert levels == [3, 2, 1]
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    kernel.calls = 0
    assert_same(adapter, gradient(adapter, [rows], PackLayout.PREFIX_TREE), alone)
    assert kernel.calls
