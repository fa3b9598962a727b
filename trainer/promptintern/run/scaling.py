"""How many training processes a job has, and where Ray places them."""

from typing import TYPE_CHECKING

from promptintern_api.compute import ComputeSpec, Device

if TYPE_CHECKING:
    from ray.train import ScalingConfig


def gpus_per_pod(compute: ComputeSpec) -> int:
    """Return the number of GPUs on which each pod trains; 0 if it trains on the CPU."""
    return compute.gpus_per_worker if compute.device is not Device.CPU else 0


def world_size(compute: ComputeSpec, pods: int) -> int:
    """Return the number of training processes in ``pods`` pods: one for each GPU, or one for each pod."""
    return pods * max(1, gpus_per_pod(compute))


def scaling_config(compute: ComputeSpec, pods: int) -> "ScalingConfig":
    """Return the number of Ray workers and what each of them needs.

    A pod has as many slots for workers as GPUs (``num-cpus`` in the operator's manifest), so the workers fill all pods,
    each with a GPU of its own. Ray numbers the workers pod by pod, so the ranks of a pod are next to each other.
    """
    from ray.train import ScalingConfig

    gpu = gpus_per_pod(compute) > 0
    return ScalingConfig(
        num_workers=world_size(compute, pods),
        use_gpu=gpu,
        resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})},
    )
