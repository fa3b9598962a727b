"""The operator's settings, which the chart passes as environment variables ``PROMPTINTERN_...``."""

import os
import re
from typing import Annotated, Any, Self

from promptintern_api.compute import AddressingStyle, ServerSideEncryption
from promptintern_api.contract import OPERATOR, OPERATOR_ENV_PREFIX
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEFAULT_IMAGE = "promptintern/trainer:0.1.0"
DEFAULT_RAY_VERSION = "2.60.0"
OWN_VARIABLE = re.compile(
    "PROMPTINTERN_.*|RAY_.*|KUBERNETES_.*|AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|HF_TOKEN|HF_HOME|"
    "HOME|USER|PYTHONUNBUFFERED|OMP_NUM_THREADS"
)
"""The names of the variables that the operator, KubeRay and Kubernetes set."""


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class EgressRule(_Value):
    """A rule that lets the pods of jobs reach addresses, pods selected by labels, or certain ports anywhere."""

    cidr: str | None = None
    except_: Annotated[list[str], Field(alias="except")] = []
    namespace_selector: dict[str, Any] | None = None
    pod_selector: dict[str, Any] | None = None
    ports: list[int] = []
    """The allowed ports; an empty list allows all ports."""

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        selectors = self.namespace_selector is not None or self.pod_selector is not None
        if (self.cidr is not None and selectors) or (self.except_ and self.cidr is None):
            raise ValueError("except is allowed only with a cidr, and a cidr excludes selectors")
        if self.cidr is None and not selectors and not self.ports:
            raise ValueError("needs a cidr, a selector or ports, because an empty rule would allow everything")
        return self


class PodSize(_Value):
    """The default CPU and memory of a container, for jobs that do not set them."""

    cpu: str
    memory: str
    ephemeral_storage: str | None = None


class ConfigMapKeyRef(_Value):
    """A key of a ConfigMap in the namespace of a job."""

    name: str
    key: str
    optional: bool = False


class ValueFrom(_Value):
    """The source of the value of an environment variable."""

    config_map_key_ref: ConfigMapKeyRef


class Variable(_Value):
    """An environment variable of every container of a job, in the format of a container's ``env``."""

    name: str
    value: str | None = None
    value_from: ValueFrom | None = None

    @model_validator(mode="after")
    def _is_settable(self) -> Self:
        if OWN_VARIABLE.fullmatch(self.name):
            raise ValueError(f"{self.name} may not be set, because the operator, KubeRay or Kubernetes sets it")
        if (self.value is None) == (self.value_from is None):
            raise ValueError("needs either value or valueFrom")
        return self


class PodDefaults(_Value):
    """The settings of the pods of all jobs, of which jobs may override some."""

    gpu_resource: str = "nvidia.com/gpu"
    runtime_class_name: str | None = None
    """The RuntimeClass of all pods."""
    gpu_runtime_class_name: str | None = None
    """The RuntimeClass of worker pods with GPUs."""
    scheduler_name: str | None = None
    """The scheduler of head and worker pods."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    env: list[Variable] = []
    cpu_limits: bool = False
    """Whether containers are limited to the CPU that they request."""
    run_as_user: int | None = 1000
    """The user and the group of the containers' processes. If it is None, the cluster chooses them, as OpenShift does.
    """


class DefaultStorage(_Value):
    """The storage of jobs that leave out ``spec.storage``, with the same fields as ``spec.storage``."""

    uri: str
    endpoint: str | None = None
    region: str | None = None
    addressing_style: AddressingStyle | None = None
    server_side_encryption: ServerSideEncryption | None = None
    kms_key_id: str | None = None
    secret_name: str | None = None
    """The name of a Secret in the job's namespace, as in ``spec.storage.secretRef``."""


def _split(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    """The settings of the operator's process. Structured values are JSON."""

    model_config = SettingsConfigDict(env_prefix=OPERATOR_ENV_PREFIX, frozen=True)

    namespaces: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    """The namespaces to serve, separated by commas; an empty value means all namespaces."""
    operator_namespace: str = "promptintern-system"
    pod_name: str = OPERATOR
    lease_name: str = OPERATOR

    trainer_image: str = DEFAULT_IMAGE
    image_pull_policy: str = "IfNotPresent"
    ray_version: str = DEFAULT_RAY_VERSION
    default_storage: DefaultStorage | None = None
    head_size: PodSize = PodSize(cpu="1", memory="4Gi")
    worker_size: PodSize = PodSize(cpu="2", memory="8Gi")
    preflight_size: PodSize = PodSize(cpu="1", memory="4Gi")
    pods: PodDefaults = PodDefaults()
    dns: tuple[EgressRule, ...] = (
        EgressRule(
            namespace_selector={"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            pod_selector={
                "matchExpressions": [{"key": "k8s-app", "operator": "In", "values": ["kube-dns", "node-local-dns"]}]
            },
            ports=[53],
        ),
        EgressRule(cidr="169.254.0.0/16", ports=[53]),
    )
    """The DNS servers of the pods of jobs; the ports are UDP and TCP ports. The second rule is for NodeLocal DNSCache,
    whose address belongs to no pod. Clouds serve credentials on such addresses too, but not on the DNS port.
    """
    egress: tuple[EgressRule, ...] = (
        EgressRule(cidr="0.0.0.0/0", except_=["169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32"]),
        EgressRule(
            cidr="::/0",
            except_=[
                *("fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128"),
                *("fd00:a9fe:a9fe::1/128", "fd00:42::42/128"),
            ],
        ),
    )
    """The destinations of the pods of jobs besides each other and DNS; the ports are TCP ports."""
    kuberay_namespace: str = "kuberay"
    """The namespace of the KubeRay operator, which alone may connect to head pods from outside. An empty value allows
    pods with KubeRay's label in every namespace.
    """

    checks_in_queue: bool = False
    """Whether a check gets its job's labels for Kueue, so that the check waits for quota too."""

    stuck_seconds: float = 900
    """The time that a pod may wait for an image, a Secret or a node before the operator gives up the attempt."""
    queue_seconds: float = 30
    """The time that Kueue may take to create a Workload before the queue counts as unavailable."""
    retry_seconds: float = 10
    """The first delay before another attempt, which doubles with each failure up to ``retry_seconds_max``."""
    retry_seconds_max: float = 600

    concurrency: int = 16
    """The number of jobs that are reconciled concurrently."""
    leader_election: bool = True
    lease_seconds: float = 15
    """The time for which the lease stays valid after its last renewal."""
    probe_port: int = 8081
    metrics_port: int = 9090
    silence_seconds: float = 210
    """The time that a watch may be silent, without even a bookmark, before the liveness probe fails."""

    @property
    def any_address(self) -> str:
        """The address that stands for all addresses of a pod, in the family of the cluster's Services.

        A cluster may have IPv6 alone; then nothing connects to a server that listens at 0.0.0.0.
        """
        return "::" if ":" in os.environ.get("KUBERNETES_SERVICE_HOST", "") else "0.0.0.0"
