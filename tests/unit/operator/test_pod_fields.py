"""What the chart and a job may choose for the pods of a job, and which of them prevails."""

from typing import Any

import pytest
from hypothesis import given
from promptintern_api import PromptInternJob
from promptintern_operator.manifests.config import resolve
from promptintern_operator.manifests.rayjob import ray_job
from promptintern_operator.settings import (
    ConfigMapKeyRef,
    DefaultStorage,
    PodDefaults,
    PodSize,
    Settings,
    ValueFrom,
    Variable,
)
from pydantic import ValidationError

from tests.unit.operator.builders import QUEUE_LABEL, job
from tests.unit.operator.jobs import STORAGE, jobs
from tests.unit.operator.pod_security import breaches, containers
from tests.unit.operator.test_manifests import FEW, pod_templates

Manifest = dict[str, Any]
HUB = Variable(name="HF_ENDPOINT", value_from=ValueFrom(config_map_key_ref=ConfigMapKeyRef(name="hub", key="url")))
PROXY = Variable(name="HTTPS_PROXY", value="http://proxy.example:3128")
DIRECT = "localhost,127.0.0.1,::1,$(KUBERNETES_SERVICE_HOST)"


def chart(**pods: Any) -> Settings:
    """Return the operator's settings with these values of the chart's ``pods``."""
    return Settings(default_storage=DefaultStorage(uri="s3://all/runs"), pods=PodDefaults(**pods))


def main(template: Manifest) -> Manifest:
    """Return the container that runs Ray or the check."""
    (container,) = template["spec"]["containers"]
    return dict(container)


def environment(template: Manifest) -> dict[str, Any]:
    """Return the variables of the main container: the value, or the source of the value."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in main(template)["env"]}


@pytest.mark.parametrize(
    ("spec", "settings", "resource"),
    [
        ({}, {}, "nvidia.com/gpu"),
        ({}, {"gpu_resource": "amd.com/gpu"}, "amd.com/gpu"),
        ({"compute__gpuResource": "nvidia.com/mig-3g.40gb"}, {"gpu_resource": "amd.com/gpu"}, "nvidia.com/mig-3g.40gb"),
    ],
)
def test_gpus_are_requested_by_name_and_ray_is_told_their_number(
    spec: dict[str, Any], settings: dict[str, Any], resource: str
) -> None:
    made = job(compute__gpusPerWorker=2, **spec)
    worker = main(pod_templates(made, chart(**settings))["worker"])
    assert worker["resources"]["limits"][resource] == worker["resources"]["requests"][resource] == "2"
    cluster = ray_job(resolve(made, chart(**settings)), chart(**settings), number=1)["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["rayStartParams"]["num-gpus"] == group["rayStartParams"]["num-cpus"] == "2", "a process per GPU"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"


@pytest.mark.parametrize(("gpus", "cpu", "threads"), [(0, "4", "4"), (1, "4", "4"), (2, "5", "2"), (8, "4", "1")])
def test_the_processes_of_a_pod_share_its_cores(gpus: int, cpu: str, threads: str) -> None:
    made = job(compute__gpusPerWorker=gpus, compute__resources={"cpu": cpu})
    worker = main(pod_templates(made, chart())["worker"])
    assert {"name": "OMP_NUM_THREADS", "value": threads} in worker["env"]


@pytest.mark.parametrize(
    ("spec", "settings", "worker", "others"),
    [
        ({}, {}, None, None),
        ({}, {"runtime_class_name": "gvisor"}, "gvisor", "gvisor"),
        ({}, {"gpu_runtime_class_name": "nvidia"}, None, None),
        ({"compute__gpusPerWorker": 1}, {"gpu_runtime_class_name": "nvidia"}, "nvidia", None),
        (
            {"compute__gpusPerWorker": 1},
            {"runtime_class_name": "kata", "gpu_runtime_class_name": "nvidia"},
            "nvidia",
            "kata",
        ),
        ({"compute__runtimeClassName": "mine"}, {"runtime_class_name": "kata"}, "mine", "kata"),
    ],
)
def test_the_runtime_class(spec: Any, settings: Any, worker: str | None, others: str | None) -> None:
    made = pod_templates(job(**spec), chart(**settings))
    assert made["worker"]["spec"].get("runtimeClassName") == worker
    assert made["head"]["spec"].get("runtimeClassName") == made["preflight"]["spec"].get("runtimeClassName") == others


def test_a_scheduler_of_whole_clusters_does_not_get_the_check() -> None:
    for spec, settings, name in (
        ({}, {"scheduler_name": "volcano"}, "volcano"),
        ({"compute__schedulerName": "yunikorn"}, {"scheduler_name": "volcano"}, "yunikorn"),
    ):
        made = pod_templates(job(**spec), chart(**settings))
        assert made["head"]["spec"]["schedulerName"] == made["worker"]["spec"]["schedulerName"] == name
        assert "schedulerName" not in made["preflight"]["spec"]


def test_the_labels_of_queues_reach_the_ray_job_and_other_labels_do_not() -> None:
    queues = {
        "volcano.sh/queue-name": "research",
        "yunikorn.apache.org/queue": "root.research",
        "kai.scheduler/queue": "research",
        "ray.io/gang-scheduling-enabled": "true",
    }
    made = job(labels={**queues, "team": "a", "ray.io/cluster": "another"})
    ray = ray_job(resolve(made, chart()), chart(), number=1)
    assert queues.items() <= ray["metadata"]["labels"].items()
    assert not {"team", "ray.io/cluster"} & ray["metadata"]["labels"].keys()
    assert ray["spec"]["suspend"] is False, "only Kueue resumes a RayJob"
    assert ray_job(resolve(job(labels=QUEUE_LABEL), chart()), chart(), number=1)["spec"]["suspend"] is True


def test_autoscalers_leave_pods_alone_by_default() -> None:
    for template in pod_templates(job(), chart()).values():
        assert template["metadata"]["annotations"] == {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
        }


def test_labels_and_annotations_of_a_job_precede_those_of_the_chart_and_the_operators_precede_all() -> None:
    settings = chart(
        labels={"a": "chart", "b": "chart", "promptintern.dev/role": "chart"}, annotations={"a": "chart", "b": "chart"}
    )
    made = job(compute__podLabels={"b": "job", "c": "job"}, compute__podAnnotations={"b": "job"})
    for role, template in pod_templates(made, settings).items():
        labels = template["metadata"]["labels"]
        assert {name: labels[name] for name in "abc"} == {"a": "chart", "b": "job", "c": "job"}
        assert labels["promptintern.dev/role"] == role
        assert template["metadata"]["annotations"] == {"a": "chart", "b": "job"}


def test_variables_of_a_job_precede_those_of_the_chart_and_are_literal() -> None:
    made = job(compute__env=[{"name": "NCCL_DEBUG", "value": "$(AWS_SECRET_ACCESS_KEY)"}])
    settings = chart(env=[HUB, Variable(name="NCCL_DEBUG", value="WARN"), Variable(name="TZ", value="UTC")])
    for template in pod_templates(made, settings).values():
        for container in containers(template["spec"]):
            names = [each["name"] for each in container["env"]]
            assert len(set(names)) == len(names)
        variables = environment(template)
        assert variables["NCCL_DEBUG"] == "$$(AWS_SECRET_ACCESS_KEY)", "the kubelet makes this one dollar sign"
        assert variables["TZ"] == "UTC"
        assert variables["HF_ENDPOINT"] == {"configMapKeyRef": {"name": "hub", "key": "url", "optional": False}}


@pytest.mark.parametrize(
    ("spec", "variables", "hosts"),
    [
        ([], [], None),
        ([], [PROXY], DIRECT),
        ([{"name": "all_proxy", "value": "socks5h://p:1"}], [], DIRECT),
        ([{"name": "NO_PROXY", "value": ".example"}], [PROXY], f".example,{DIRECT}"),
        ([], [PROXY, Variable(name="no_proxy", value="10.0.0.0/8")], f"10.0.0.0/8,{DIRECT}"),
        ([{"name": "NO_PROXY", "value": ".example"}], [], ".example"),
    ],
)
def test_no_proxy_is_between_a_pod_and_itself_or_the_api_server(
    spec: list[dict[str, str]], variables: list[Variable], hosts: str | None
) -> None:
    made = pod_templates(job(compute__env=spec), chart(env=variables))
    for template in made.values():
        found = environment(template)
        assert found.get("NO_PROXY") == hosts
        assert hosts is None or not variables or found["no_proxy"] == hosts


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_a_list_of_direct_hosts_in_a_config_map_is_extended(name: str) -> None:
    listed = Variable(name=name, value_from=HUB.value_from)
    template = pod_templates(job(), chart(env=[PROXY, listed]))["head"]
    found = environment(template)
    assert found["PROMPTINTERN_NO_PROXY"] == {"configMapKeyRef": {"name": "hub", "key": "url", "optional": False}}
    assert found["NO_PROXY"] == found["no_proxy"] == f"$(PROMPTINTERN_NO_PROXY),{DIRECT}"
    order = [variable["name"] for variable in main(template)["env"]]
    assert order.index("PROMPTINTERN_NO_PROXY") < min(order.index("NO_PROXY"), order.index("no_proxy")), "as expanded"


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "no_proxy", "NO_PROXY"])
def test_a_proxy_of_a_job_replaces_that_of_the_chart_in_both_spellings(name: str) -> None:
    variables = [PROXY, Variable(name="https_proxy", value="http://chart:1"), Variable(name="NO_PROXY", value="chart")]
    found = environment(pod_templates(job(compute__env=[{"name": name, "value": "job"}]), chart(env=variables))["head"])
    same = {key: value for key, value in found.items() if key.lower() == name.lower()}
    assert all(str(value).startswith("job") for value in same.values()), same


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "HF_TOKEN", "value": "x"},
        {"name": "PROMPTINTERN_JOB", "value": "x"},
        {"name": "RAY_ADDRESS", "value": "x"},
        {"name": "OK"},
        {"name": "OK", "value": "x", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}},
        {"name": "OK", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
    ],
)
def test_the_operator_refuses_variables_that_it_sets_itself_or_that_have_no_value(variable: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PodDefaults.model_validate({"env": [variable]})


@FEW
@given(jobs())
def test_quotas_with_limits_can_be_met(any_job: PromptInternJob) -> None:
    size = PodSize(cpu="1", memory="4Gi", ephemeral_storage="20Gi")
    settings = chart(cpu_limits=True).model_copy(
        update={"head_size": size, "worker_size": size, "preflight_size": size}
    )
    for template in pod_templates(any_job, settings).values():
        for container in containers(template["spec"]):
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} <= resources["limits"].keys()


def test_scratch_space_of_a_job_precedes_that_of_the_chart() -> None:
    made = job(compute__resources={"ephemeralStorage": "200Gi"})
    found = {
        (role, container["name"]): container["resources"]["limits"].get("ephemeral-storage")
        for role, template in pod_templates(made, chart()).items()
        for container in containers(template["spec"])
    }
    assert found == {
        ("head", "ray-head"): None,
        ("head", "logs"): None,
        ("worker", "ray-worker"): "200Gi",
        ("worker", "logs"): "64Mi",
        ("preflight", "check"): None,
    }


@FEW
@given(jobs())
def test_a_cluster_may_choose_the_users(any_job: PromptInternJob) -> None:
    settings = chart(run_as_user=None, labels={"x": "y"}, env=[PROXY, HUB], runtime_class_name="gvisor")
    for template in pod_templates(any_job, settings).values():
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & template["spec"]["securityContext"].keys()
        assert breaches(template["spec"]) == []
        assert environment(template)["USER"] == "promptintern"


def test_the_user_of_the_chart_is_that_of_all_pods() -> None:
    for template in pod_templates(job(storage=STORAGE), chart(run_as_user=4711)).values():
        context = template["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (4711, 4711, 4711)


@pytest.mark.parametrize(("service", "address"), [(None, "0.0.0.0"), ("10.96.0.1", "0.0.0.0"), ("fd00:10::1", "::")])
def test_servers_listen_in_the_address_family_of_the_cluster(
    service: str | None, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if service is not None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", service)
    assert chart().any_address == address
    cluster = ray_job(resolve(job(), chart()), chart(), number=1)["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] == address
    (ray,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    asked = ray["readinessProbe"]["exec"]["command"][-1]
    assert f"http://{'[::1]' if address == '::' else 'localhost'}:8265/" in asked
