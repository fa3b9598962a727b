"""Where Ray places the training processes of pods with several GPUs, on nodes that only say that they have GPUs."""

import json
import os
import subprocess
import sys

from tests.integration.run.ray_cluster import ENVIRONMENT

_TRAIN = """
import json, sys, tempfile
import ray
from promptintern.run.scaling import scaling_config
from promptintern_api.compute import ComputeSpec
from ray import train
from ray.cluster_utils import Cluster
from ray.train import RunConfig
from ray.train.torch import TorchConfig, TorchTrainer

pods, gpus = map(int, sys.argv[1:])

@ray.remote(num_cpus=0)
class Places:
    def __init__(self):
        self.places = []

    def add(self, *place):
        self.places.append(place)

    def all(self):
        return sorted(self.places)

def loop(config):
    context = train.get_context()
    accelerators = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    node = ray.get_runtime_context().get_node_id()
    place = context.get_world_rank(), node, accelerators
    ray.get(config["places"].add.remote(*place))

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
for _ in range(pods):
    cluster.add_node(num_cpus=max(1, gpus), num_gpus=gpus)
ray.init(address=cluster.address, log_to_driver=False)
places = Places.remote()
TorchTrainer(
    loop,
    train_loop_config={"places": places},
    scaling_config=scaling_config(ComputeSpec(gpus_per_worker=gpus), pods),
    run_config=RunConfig(storage_path=tempfile.mkdtemp()),
    torch_config=TorchConfig(backend="gloo"),
).fit()
print(json.dumps(ray.get(places.all.remote())))
ray.shutdown()
cluster.shutdown()
"""


PODS, GPUS = 2, 2


def test_each_gpu_has_a_process_and_the_ranks_of_a_pod_are_next_to_each_other() -> None:
    environment = {**os.environ, **ENVIRONMENT, "RAY_TRAIN_V2_ENABLED": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    command = [sys.executable, "-c", _TRAIN, str(PODS), str(GPUS)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    places = json.loads(ran.stdout.splitlines()[-1])
    assert [rank for rank, _, _ in places] == list(range(PODS * GPUS))
    nodes = [node for _, node, _ in places]
    assert len(set(nodes)) == PODS
    for first in range(0, PODS * GPUS, GPUS):
        assert len(set(nodes[first : first + GPUS])) == 1
    gpus = [(node, *gpu) for _, node, gpu in places]
    assert len(set(gpus)) == PODS * GPUS, "no GPU has two processes"
