"""The parts of watched objects that their views read. A decoder skips everything else without building it."""

from msgspec import Struct


class Memory(Struct, omit_defaults=True):
    memory: str | int | None = None


class Resources(Struct, omit_defaults=True):
    limits: Memory | None = None


class Container(Struct, omit_defaults=True):
    name: str
    resources: Resources | None = None


class Condition(Struct, rename="camel", omit_defaults=True):
    type: str = ""
    status: str | None = None
    reason: str | None = None
    message: str | None = None
    last_transition_time: str | None = None


class Waiting(Struct, omit_defaults=True):
    reason: str | None = None
    message: str | None = None


class Terminated(Struct, rename="camel", omit_defaults=True):
    exit_code: int | None = None
    reason: str | None = None
    message: str | None = None
    finished_at: str | None = None


class ContainerState(Struct, omit_defaults=True):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(Struct, rename="camel", omit_defaults=True):
    name: str
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class PodSpec(Struct, rename="camel", omit_defaults=True):
    node_name: str | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodStatus(Struct, rename="camel", omit_defaults=True):
    phase: str | None = None
    reason: str | None = None
    message: str | None = None
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class PodTemplate(Struct, omit_defaults=True):
    spec: PodSpec | None = None


class WorkerGroup(Struct, omit_defaults=True):
    template: PodTemplate | None = None


class ClusterSpec(Struct, rename="camel", omit_defaults=True):
    worker_group_specs: list[WorkerGroup] | None = None


class RayJobSpec(Struct, rename="camel", omit_defaults=True):
    suspend: bool | None = None
    ray_cluster_spec: ClusterSpec | None = None


class ClusterStatus(Struct, omit_defaults=True):
    conditions: list[Condition] | None = None


class RayJobStatus(Struct, rename="camel", omit_defaults=True):
    job_deployment_status: str | None = None
    job_status: str | None = None
    reason: str | None = None
    message: str | None = None
    ray_cluster_name: str | None = None
    end_time: str | None = None
    ray_cluster_status: ClusterStatus | None = None


class BatchJobSpec(Struct, omit_defaults=True):
    suspend: bool | None = None


class BatchJobStatus(Struct, rename="camel", omit_defaults=True):
    start_time: str | None = None
    conditions: list[Condition] | None = None


class WorkloadSpec(Struct, omit_defaults=True):
    pass


class WorkloadStatus(Struct, omit_defaults=True):
    conditions: list[Condition] | None = None
