"""The calls that a GPU takes, with a kernel written out: loss and gradients are those of rows alone."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptintern.engine.attention.varlen import Ragged, Sequences, _in_certain_order
from promptintern.engine.packing.forward import pack_tensors
from promptintern.engine.packing.layout import Layout

from tests.tiny import tiny_model
from tests.unit.engine.adapters import CPU, with_random_lora
from tests.unit.engine.packing.test_layout import FULL_ATTENTION, assert_same, gradient, in_order
from tests.unit.engine.rows import random_family, random_rows

Tensor = torch.Tensor
SHARED: dict[str, Any] = {"device": CPU, "cascade": True, "shared": True}


class WrittenOut:
    """Softmax attention of one sequence after the other, and its derivatives as they stand in a textbook."""

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

    def _each(self, sequences: Sequences) -> list[tuple[slice, slice]]:
        self.calls += 1
        queries, keys = (
            [slice(a, b) for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
            for ends in (sequences.query_ends, sequences.key_ends)
        )
        assert sequences.longest == (max(s.stop - s.start for s in queries), max(s.stop - s.start for s in keys))
        cells = [(n, i) for n, s in enumerate(queries) for i in range(s.stop - s.start)]
        assert list(zip(*(c.tolist() for c in sequences.cells), strict=True)) == cells
        return list(zip(queries, keys, strict=True))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, scale: float) -> tuple[Tensor, Tensor]:
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        outs, sums = [], []
        for asking, asked in self._each(sequences):
            p, lse = self._probabilities(q[asking], k[asked], None, causal=sequences.causal, scale=scale)
            outs.append(torch.einsum("hqk,khd->qhd", p, v[asked]))
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
        sequences: Sequences,
        *,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        dqs, dks, dvs = [], [], []
        for asking, asked in self._each(sequences):
            p, _ = self._probabilities(q[asking], k[asked], lse[asking], causal=sequences.causal, scale=scale)
            dp = torch.einsum("qhd,khd->hqk", grad[asking], v[asked])
            ds = p * (dp - (grad[asking] * out[asking]).sum(-1).t()[..., None]) * scale
            dqs.append(torch.einsum("hqk,khd->qhd", ds, k[asked]))
            dks.append(torch.einsum("hqk,qhd->khd", ds, q[asking]))
            dvs.append(torch.einsum("hqk,qhd->khd", p, grad[asking]))
        dk, dv = (torch.cat(x).view(-1, heads, groups, k.shape[-1]).sum(2) for x in (dks, dvs))
        return torch.cat(dqs), dk, dv


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> WrittenOut:
    """Of the calls that a GPU would take, which the tests' CPU takes now."""
    kernel = WrittenOut()
    monkeypatch.setattr("promptintern.engine.attention.varlen.kernel_for", lambda _q, _v: kernel)
    monkeypatch.setattr("promptintern.engine.packing.forward.planner_of", lambda _device: Ragged())
    monkeypatch.setattr(Ragged, "least_saved", 16)
    return kernel


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
@pytest.mark.parametrize("layout", [Layout.CASCADE, Layout.SHARED])
def test_loss_and_gradients_are_those_of_rows_alone(architecture: str, layout: Layout, kernel: WrittenOut) -> None:
    adapter = with_random_lora(tiny_model(architecture))
    rows = in_order(random_family(0, 9))
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    assert_same(adapter, gradient(adapter, [rows], layout), alone)
    assert kernel.calls


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 90), st.integers(1, 90))
def test_any_tree(kernel: WrittenOut, seed: int, count: int, template: int, longest: int) -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = in_order(random_family(seed, count, template=template, longest=longest))
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    assert_same(adapter, gradient(adapter, [rows], Layout.SHARED), alone)
    packs = [some for some in (rows[:3], rows[3:]) if some]
    assert_same(adapter, gradient(adapter, packs, Layout.SHARED, trunk=template), alone)


def test_a_certain_order_is_asked_for_inside_only() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="out"), _in_certain_order():
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("out")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_calls_are_as_many_as_the_tree_is_deep(kernel: WrittenOut) -> None:
    model: Any = tiny_model("llama")
    adapter = with_random_lora(model)
    for rows, levels in ((random_rows(0, 9), 0), (in_order(random_family(0, 40)), 2)):
        kernel.calls = 0
        gradient(adapter, [rows], Layout.SHARED)
        layers, passes = model.config.num_hidden_layers, 2
        assert kernel.calls == layers * passes * (1 + levels)


def test_what_saves_less_than_a_level_costs_is_computed_for_every_row(kernel: WrittenOut) -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = in_order(random_family(0, 40))
    shared = [1 + len(pack_tensors(rows, **SHARED, least_saved=n).cascade.every.dense) for n in (16, 512, 2000)]
    assert shared == [3, 2, 1]
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    kernel.calls = 0
    assert_same(adapter, gradient(adapter, [rows], Layout.SHARED), alone)
    assert kernel.calls
