"""The number of training processes, and what each of them asks Ray for."""

import pytest
from promptintern.run.scaling import scaling_config, world_size
from promptintern_api.compute import ComputeSpec


@pytest.mark.parametrize(
    ("gpus", "device", "pods", "processes", "resources"),
    [
        (0, "Auto", 3, 3, {"CPU": 1}),
        (1, "Auto", 3, 3, {"CPU": 1, "GPU": 1}),
        (4, "CUDA", 3, 12, {"CPU": 1, "GPU": 1}),
        (0, "CPU", 2, 2, {"CPU": 1}),
    ],
)
def test_a_pod_has_a_process_for_each_gpu(
    gpus: int, device: str, pods: int, processes: int, resources: dict[str, float]
) -> None:
    compute = ComputeSpec.model_validate({"gpusPerWorker": gpus, "device": device})
    assert world_size(compute, pods) == processes
    scaling = scaling_config(compute, pods)
    assert scaling.num_workers == processes
    assert scaling.resources_per_worker == resources
    assert scaling.use_gpu == (gpus > 0)
