"""Lanes: the same gradients as without them, and threads that end and are released."""

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.engine.fused.last_layer import attention_of
from promptintern.engine.fused.lora_fp32 import _LayerGroup
from promptintern.engine.fused.patching import base_of
from promptintern.engine.lanes import lane_count, lane_pool, lane_threads, pin_thread_settings
from promptintern.engine.packing.layout import PackLayout

from tests.tiny import random_model, tiny_config, tiny_model
from tests.unit.engine.adapters import CPU, gradient, gradient_of_step, with_random_lora
from tests.unit.engine.packing.test_layout import FULL_ATTENTION, assert_same
from tests.unit.engine.rows import random_family

ATTENTION = "q_proj,k_proj,v_proj,o_proj"
MODELS = [(name, "all-linear") for name in FULL_ATTENTION if name != "mixtral"] + [("mixtral", ATTENTION)]


@pytest.fixture
def small_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use lanes even for steps with few tokens."""
    monkeypatch.setattr("promptintern.engine.packing.planning._MIN_LANE_TOKENS", 1)


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def in_step(adapter: Any, lanes: int) -> tuple[list[int], Any]:
    """Have the lanes wait for each other in every layer: between the queries and the keys, for one. The first counts
    the passes that have waited."""
    waited: list[int] = []
    together = threading.Barrier(lanes, action=lambda: waited.append(1))

    def wait(*_: Any) -> None:
        if torch.is_grad_enabled() and meeting[0]:
            together.wait(timeout=60)

    meeting = [False]
    for layer in base_of(adapter.model).get_decoder().layers:
        attention = attention_of(layer)
        assert attention
        parts = dict(attention.named_children())
        parts.get("q_proj", attention).register_forward_hook(wait)
        layer.register_forward_hook(wait)
    return waited, meeting


@pytest.mark.parametrize(("architecture", "targets"), MODELS)
@pytest.mark.parametrize("lanes", [2, 4])
@pytest.mark.parametrize("min_prefix_savings", [None, 1])
@pytest.mark.usefixtures("small_steps_too")
def test_gradients_are_those_of_rows_alone(
    architecture: str, targets: str, lanes: int, min_prefix_savings: int | None
) -> None:
    adapter = with_random_lora(tiny_model(architecture), target_modules=targets)
    rows = random_family(3, 24)
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    loss, grad, step = gradient_of_step(
        adapter, rows, lanes=lanes, tokens=60 * lanes, min_prefix_savings=min_prefix_savings
    )
    assert bool(step.prefix_tokens) == bool(min_prefix_savings)
    assert len(step.split_by_lane(0)[1]) == lanes
    assert_same(adapter, (loss, grad), alone)


@pytest.mark.parametrize(("architecture", "targets"), MODELS)
@pytest.mark.usefixtures("small_steps_too")
def test_lanes_do_not_use_each_others_records(architecture: str, targets: str) -> None:
    adapter = with_random_lora(tiny_model(architecture), target_modules=targets)
    rows = random_family(3, 8)
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    waited, meeting = in_step(adapter, 2)
    *_, step = gradient_of_step(adapter, rows, lanes=2, tokens=2**20, min_prefix_savings=None)
    assert [len(lane) for lane in step.split_by_lane(0)[1]] == [1, 1]
    assert not waited
    meeting[0] = True
    loss, grad, _ = gradient_of_step(adapter, rows, lanes=2, tokens=2**20, min_prefix_savings=None)
    assert len(waited) == 2 * len(base_of(adapter.model).get_decoder().layers)
    assert_same(adapter, (loss, grad), alone)


def test_pending_outputs_of_layers_are_kept_per_thread() -> None:
    computed: list[torch.Tensor] = []

    def compute(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        computed.append(x)
        return 2 * x, 3 * x

    first, second = torch.nn.Identity(), torch.nn.Identity()
    forwards = _LayerGroup([first, second], compute).forwards()
    here, there = torch.tensor(1.0), torch.tensor(10.0)
    with ThreadPoolExecutor(1) as other:
        assert forwards[first](here) == 2
        assert other.submit(forwards[first], there).result() == 20
        assert forwards[second](here) == 3
        assert other.submit(forwards[second], there).result() == 30
    assert len(computed) == 2


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 60), st.integers(2, 5), st.integers(40, 1000))
def test_any_rows(seed: int, count: int, template: int, lanes: int, tokens: int) -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = random_family(seed, count, template=template)
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    loss, grad, _ = gradient_of_step(adapter, rows, lanes=lanes, tokens=tokens, min_prefix_savings=20)
    assert_same(adapter, (loss, grad), alone)


@pytest.mark.usefixtures("four_threads")
def test_gradients_repeat_with_several_threads_each() -> None:
    config = tiny_config("llama")
    config.hidden_size, config.intermediate_size, config.head_dim = 512, 1024, 128
    adapter = with_random_lora(random_model(config))
    rows = random_family(5, 60, template=200)
    results = [gradient_of_step(adapter, rows, lanes=2, tokens=1024, min_prefix_savings=100) for _ in range(3)]
    assert len(results[0][2].split_by_lane(0)[1]) == 2
    for loss, grad, _ in results[1:]:
        assert loss == results[0][0]
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize(("architecture", "targets"), MODELS)
@pytest.mark.usefixtures("four_threads")
def test_a_model_that_a_pass_only_reads_has_all_threads(architecture: str, targets: str) -> None:
    assert lane_threads(with_random_lora(tiny_model(architecture), target_modules=targets).model, CPU) == 4


@pytest.mark.usefixtures("four_threads")
def test_one_that_a_pass_changes_or_draws_in_has_one() -> None:
    assert lane_threads(with_random_lora(tiny_model("mixtral")).model, CPU) == 1
    assert lane_threads(with_random_lora(tiny_model("llama").to(torch.bfloat16)).model, CPU) == 1
    assert lane_threads(with_random_lora(tiny_model("llama")).model, torch.device("cuda")) == 1
    config = tiny_config("mixtral")
    config.router_jitter_noise = 0.1
    adapter = with_random_lora(random_model(config), target_modules=ATTENTION)
    assert lane_threads(adapter.model, CPU) == 1
    adapter = with_random_lora(tiny_model("llama"))
    adapter.model.register_forward_pre_hook(_leave_behind, with_kwargs=True)
    assert lane_threads(adapter.model, CPU) == 1


def _leave_behind(module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
    module.tokens = kwargs["input_ids"].shape[1]


@pytest.mark.usefixtures("four_threads")
def test_the_probe_restores_generator_and_modes() -> None:
    adapter = with_random_lora(tiny_model("llama"))
    base_of(adapter.model).eval()
    modes = [module.training for module in adapter.model.modules()]
    state = torch.get_rng_state()
    assert lane_threads(adapter.model, CPU) == 4
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in adapter.model.modules()] == modes
    assert len(set(modes)) == 2


@pytest.mark.parametrize(
    ("threads", "tokens", "lanes"), [(1, 4096, 1), (2, 2047, 1), (2, 2048, 2), (5, 4096, 1), (6, 4096, 3), (8, 6000, 4)]
)
def test_lanes_have_enough_tokens_and_share_threads_evenly(threads: int, tokens: int, lanes: int) -> None:
    assert lane_count(threads, tokens_per_pack=tokens) == lanes


@pytest.mark.usefixtures("four_threads")
def test_every_lane_has_its_share_of_the_threads() -> None:
    pin_thread_settings(CPU)
    assert torch.get_num_threads() == 4
    results: dict[str, tuple[int, int, str]] = {}
    together = threading.Barrier(2)

    def work(lane: str, items: Iterable[int]) -> None:
        together.wait(timeout=60)  # both lanes are running
        results[lane] = sum(items), torch.get_num_threads(), threading.current_thread().name

    with lane_pool(2) as pool:
        pool.run(work, [("a", [1, 2]), ("b", [3])])
        assert [results[lane][:2] for lane in "ab"] == [(3, 2), (3, 2)]
        assert results["a"][2] == threading.current_thread().name != results["b"][2]
        assert torch.get_num_threads() == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


@pytest.mark.parametrize("failing", ["a", "b"])
def test_a_failing_lane_stops_the_others_before_their_next_pack(failing: str) -> None:
    before = torch.get_num_threads()
    taken: list[int] = []
    begun = threading.Barrier(2)

    def work(lane: str, items: Iterable[int]) -> None:
        for item in items:
            begun.wait(timeout=60)
            if lane == failing:
                raise KeyboardInterrupt
            taken.append(item)
            assert pool._cancelled.wait(timeout=60)

    with lane_pool(2) as pool, pytest.raises(KeyboardInterrupt):
        pool.run(work, [("a", [1, 2, 3]), ("b", [1, 2, 3])])
    assert taken == [1]
    assert torch.get_num_threads() == before


HEAP = """
import torch
from concurrent.futures import ThreadPoolExecutor
from promptintern.engine.lanes import pin_thread_settings, lane_pool

def blocks(count):
    return [torch.empty(100 * 256) for _ in range(count)]

pin_thread_settings(torch.device("cpu"))
with ThreadPoolExecutor(4) as others:
    list(others.map(blocks, [10] * 8))
held = []
with lane_pool(2) as pool:
    pool.run(lambda _, items: [held.extend(blocks(item)) for item in items], [(0, []), (1, [100])])
heap = next(line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
first, last = (int(place, 16) for place in heap.split("-"))
print(sum(first <= tensor.data_ptr() < last for tensor in held))
"""
"""Prints how many of the 100 blocks that the second lane allocates are in the first one's heap."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has a heap for every thread")
def test_lanes_share_a_heap() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    ended = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True, env=environment)
    assert int(ended.stdout) == 100
