"""Packs side by side in threads: the same gradients, and threads that end and are given back."""

import threading
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.engine.lanes import Lanes, threads_for, threads_of
from promptintern.engine.layout import Layout

from tests.tiny import tiny_model
from tests.unit.engine.adapters import CPU, gradient, gradient_of_step, with_random_lora
from tests.unit.engine.rows import random_family
from tests.unit.engine.test_layout import FULL_ATTENTION, assert_same


@pytest.mark.parametrize("architecture", [name for name in FULL_ATTENTION if name != "mixtral"])
@pytest.mark.parametrize("count", [2, 4])
def test_gradients_are_those_of_rows_alone(architecture: str, count: int) -> None:
    adapter = with_random_lora(tiny_model(architecture))
    rows = random_family(3, 24)
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    for trunk_saves in (None, 1):
        lanes = Lanes(count=count, tokens=60)
        *found, trunk = gradient_of_step(adapter, rows, lanes, trunk_saves=trunk_saves)
        assert bool(trunk) == bool(trunk_saves)
        assert_same(adapter, (found[0], found[1]), alone)


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
def test_a_mixture_whose_experts_are_adapted_has_one_lane(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    adapter = with_random_lora(tiny_model(architecture))
    assert threads_for(adapter.model, CPU) == (1 if architecture == "mixtral" else 4)
    assert threads_for(adapter.model, torch.device("cuda")) == 1


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 60), st.integers(2, 5), st.integers(8, 200))
def test_any_rows(seed: int, count: int, template: int, lanes: int, tokens: int) -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = random_family(seed, count, template=template)
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    loss, grad, _ = gradient_of_step(adapter, rows, Lanes(count=lanes, tokens=tokens), trunk_saves=20)
    assert_same(adapter, (loss, grad), alone)


def test_every_lane_has_its_part_of_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with threads_of(Lanes(count=2, tokens=1)) as threads:
            together = threading.Barrier(2)  # both at a time

            def work(share: Iterable[int]) -> tuple[int, int, str]:
                together.wait(timeout=60)
                return sum(share), torch.get_num_threads(), threading.current_thread().name

            found = threads.side_by_side(work, [[1, 2], [3]])
            assert [each[:2] for each in found] == [(3, 2), (3, 2)]
            assert found[0][2] == threading.current_thread().name != found[1][2]
            assert torch.get_num_threads() == 4
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_ends_the_others_before_their_next_pack(failing: int) -> None:
    before = torch.get_num_threads()
    taken: list[int] = []
    begun = threading.Barrier(2)

    def work(share: Iterable[int]) -> None:
        for item in share:
            if item == 0:
                begun.wait(timeout=60)
                raise KeyboardInterrupt
            taken.append(item)
            if item == 1:
                begun.wait(timeout=60)
                assert threads._over.wait(timeout=60)

    with threads_of(Lanes(count=2, tokens=1)) as threads:
        shares = [[0], [1, 2, 3]] if failing == 0 else [[1, 2, 3], [0]]
        with pytest.raises(KeyboardInterrupt):
            threads.side_by_side(work, shares)
    assert taken == [1]
    assert torch.get_num_threads() == before
