"""The time of activities, and the arithmetic of training."""

import pytest
import torch
from promptintern.engine.adapter import attach_lora
from promptintern.engine.throughput import (
    Activity,
    ActivityClock,
    ParameterCounts,
    device_peak,
    parameter_counts,
    peak_flops,
    training_flops,
)
from promptintern_api.training import Lora

from tests.tiny import tiny_model


def test_seconds_are_summed_by_activity() -> None:
    moments = iter([10.0, 11.0, 13.0, 14.5, 20.0])
    clock = ActivityClock(lambda: next(moments), lambda start, end: end - start)
    for activity in ("data", "forward", "data"):
        clock.record(activity)  # type: ignore[arg-type]
    assert clock.collect() == {"data": 2.5, "forward": 2.0}
    clock.record("save")
    assert clock.collect() == {"save": 5.5}
    assert clock.collect() == {}


def test_a_record_that_the_device_has_not_reached_comes_later() -> None:
    moments = iter(range(10))
    reached = 2
    clock = ActivityClock(lambda: next(moments), lambda start, end: float(end - start) if end <= reached else None)
    activities: list[Activity] = ["forward", "backward", "optimizer"]
    for activity in activities:
        clock.record(activity)
    assert clock.collect() == {"forward": 1.0, "backward": 1.0}
    reached = 3
    clock.record("save")
    assert clock.collect() == {"optimizer": 1.0}


def test_flops_of_a_frozen_base() -> None:
    counts = ParameterCounts(base=1000, head=100, lora=10)
    assert training_flops(counts, computed=1, loss_tokens=0) == 4 * 1000 + 6 * 10
    assert training_flops(counts, computed=20, loss_tokens=5) == 20 * (4 * 1000 + 6 * 10) + 5 * 4 * 100


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_that_tokens_are_multiplied_with(tied: bool) -> None:
    model = tiny_model("llama")
    if tied:
        model.set_output_embeddings(torch.nn.Linear(1, 1))
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    table = model.get_input_embeddings().weight.numel()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) - table
    adapter = attach_lora(model, Lora(r=4, alpha=8), seed=0)
    assert parameter_counts(adapter) == ParameterCounts(base=linear, head=table, lora=adapter.flat.numel())


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA H200", torch.bfloat16, 989e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, 19.5e12),
        ("NVIDIA A100 80GB PCIe", torch.bfloat16, 312e12),
        ("NVIDIA A10", torch.bfloat16, 125e12),
        ("NVIDIA L4", torch.bfloat16, 121e12),
        ("NVIDIA L40S", torch.bfloat16, 362e12),
        ("Tesla T4", torch.float32, 8.1e12),
        ("Tesla T4", torch.bfloat16, None),
        ("NVIDIA A10G", torch.bfloat16, None),
        ("NVIDIA GH200 480GB", torch.bfloat16, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", torch.bfloat16, None),
        ("Some other GPU", torch.float32, None),
    ],
)
def test_the_peak_of_a_gpu(name: str, dtype: torch.dtype, peak: float | None) -> None:
    assert peak_flops(name, dtype) == (None if peak is None else pytest.approx(peak))


def test_a_cpu_has_no_peak() -> None:
    assert device_peak(torch.device("cpu"), torch.float32) is None
