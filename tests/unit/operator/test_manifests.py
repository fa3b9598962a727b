"""The created objects are safe for the cluster, whatever the job asks for, and follow the job."""

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern_api import InvalidJob, PromptInternJob
from promptintern_api.contract import ENV_JOB
from promptintern_operator.manifests.config import (
    CA_FOLDER,
    FOLDER,
    SCRATCH,
    TOKEN_FOLDER,
    config_map,
    refusals,
    resolve,
)
from promptintern_operator.manifests.identity import role, role_binding, service_account
from promptintern_operator.manifests.network import network_policy
from promptintern_operator.manifests.pods import cores
from promptintern_operator.manifests.preflight import preflight_job
from promptintern_operator.manifests.rayjob import ray_job
from promptintern_operator.plan.attempts import ray_job_name
from promptintern_operator.settings import DefaultStorage, EgressRule, Settings
from pydantic import ValidationError

from tests.unit.operator.builders import JOB_UID, QUEUE_LABEL, job
from tests.unit.operator.jobs import NAMES, STORAGE, jobs
from tests.unit.operator.pod_security import breaches, containers

Manifest = dict[str, Any]
SETTINGS = Settings(default_storage=DefaultStorage(uri="s3://all/runs", secret_name="all-s3"))
FEW = settings(max_examples=25, derandomize=True)
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
GPU = "nvidia.com/gpu"


def pod_templates(any_job: PromptInternJob, chart: Settings = SETTINGS) -> dict[str, Manifest]:
    """Return the templates of all pods, by role."""
    cluster = ray_job(resolve(any_job, chart), chart, number=1)["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return {
        "head": cluster["headGroupSpec"]["template"],
        "worker": workers["template"],
        "preflight": preflight_job(resolve(any_job, chart), chart, generation=1)["spec"]["template"],
    }


def everything(any_job: PromptInternJob) -> list[Manifest]:
    return [
        service_account(any_job),
        role(any_job),
        role_binding(any_job),
        config_map(resolve(any_job, SETTINGS)),
        network_policy(any_job, SETTINGS),
        preflight_job(resolve(any_job, SETTINGS), SETTINGS, generation=3),
        ray_job(resolve(any_job, SETTINGS), SETTINGS, number=2),
    ]


def _walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value, path)


def test_every_container_knows_its_job_so_that_its_messages_address_the_author() -> None:
    for role_name, template in pod_templates(job()).items():
        for each in containers(template["spec"]):
            assert {"name": ENV_JOB, "value": job().metadata.name} in each["env"], (role_name, each["name"])


@FEW
@given(jobs())
def test_every_pod_meets_pod_security_restricted(any_job: PromptInternJob) -> None:
    for template in pod_templates(any_job).values():
        assert breaches(template["spec"]) == []
        for container in containers(template["spec"]):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_pod_security_checker_can_fail() -> None:
    template = pod_templates(job())["head"]["spec"]
    bad = {**template, "hostNetwork": True, "volumes": [{"name": "root", "hostPath": {"path": "/"}}]}
    bad["containers"] = [{"name": "ray", "securityContext": {"privileged": True}, "ports": [{"hostPort": 1}]}]
    assert len(breaches(bad)) == 6


@FEW
@given(jobs())
def test_only_the_head_that_drives_holds_a_token_for_the_api_server(any_job: PromptInternJob) -> None:
    for name, template in pod_templates(any_job).items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        tokens = [volume["name"] for volume in spec["volumes"] if "serviceAccountToken" in json.dumps(volume)]
        holders = [
            container["name"]
            for container in containers(spec)
            if any(mount["name"] in tokens for mount in container["volumeMounts"])
        ]
        assert holders == (["ray-head"] if name == "head" else [])


@FEW
@given(jobs())
def test_secrets_are_referred_to_and_never_copied(any_job: PromptInternJob) -> None:
    spec = resolve(any_job, SETTINGS).spec
    named = {ref.name for ref in (spec.storage and spec.storage.secret_ref, spec.model.secret_ref) if ref}
    pull = {secret.name for secret in spec.compute.image_pull_secrets or []}
    for template in pod_templates(any_job).values():
        mounted = [volume["secret"] for volume in template["spec"]["volumes"] if "secret" in volume]
        assert all(each["items"] == [{"key": "ca.crt", "path": "ca.crt"}] and each["optional"] for each in mounted)
        assert {each["secretName"] for each in mounted} <= named
        assert {s["name"] for s in template["spec"].get("imagePullSecrets", [])} == pull
        for container in containers(template["spec"]):
            assert "envFrom" not in container
            used = {v["valueFrom"]["secretKeyRef"]["name"] for v in container["env"] if "valueFrom" in v}
            assert used == named
            secret = [v for v in container["env"] if v["name"].startswith(("AWS_", "HF_TOKEN"))]
            assert all("value" not in variable for variable in secret)


@FEW
@given(jobs())
def test_every_container_has_the_ca_certificate_of_the_storage(any_job: PromptInternJob) -> None:
    storage = resolve(any_job, SETTINGS).spec.storage
    assert storage is not None
    for template in pod_templates(any_job).values():
        for container in containers(template["spec"]):
            (path,) = [v["value"] for v in container["env"] if v["name"] == "PROMPTINTERN_STORAGE_CA"]
            folders = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "storage-ca"]
            assert [f"{folder}/ca.crt" for folder in folders] == [path]
            assert "AWS_CA_BUNDLE" not in {v["name"] for v in container["env"]}, "the model hub has another CA"


@FEW
@given(jobs())
def test_memory_limits_equal_requests_and_only_workers_get_gpus(any_job: PromptInternJob) -> None:
    gpus = any_job.spec.compute.gpus_per_worker
    for template in pod_templates(any_job).values():
        for container in containers(template["spec"]):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= requests.keys()
            assert limits == {name: size for name, size in requests.items() if name != "cpu"}
            gpu = any_job.spec.compute.gpu_resource or GPU
            assert limits.get(gpu) == (str(gpus) if container["name"] == "ray-worker" and gpus else None)
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


@FEW
@given(jobs())
def test_every_created_object_belongs_to_its_job(any_job: PromptInternJob) -> None:
    for manifest in everything(any_job):
        meta = manifest["metadata"]
        assert meta["namespace"] == "team-a"
        (owner,) = meta["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("PromptInternJob", any_job.metadata.name, JOB_UID)
        assert owner["controller"] is True
        assert meta["labels"]["promptintern.dev/job-uid"] == JOB_UID
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "promptintern-operator"
    for role_name, template in pod_templates(any_job).items():
        labels = template["metadata"]["labels"]
        assert labels["promptintern.dev/job-uid"] == JOB_UID
        assert labels["promptintern.dev/role"] == role_name
        assert template["spec"]["serviceAccountName"] == service_account(any_job)["metadata"]["name"]


@FEW
@given(name=NAMES, number=st.integers(1, 9999), generation=st.integers(1, 99_999))
def test_names_and_labels_fit_for_every_name_of_a_job(name: str, number: int, generation: int) -> None:
    named = job(name=name, labels=QUEUE_LABEL)
    ray = ray_job(resolve(named, SETTINGS), SETTINGS, number=number)
    assert ray["metadata"]["name"] == ray_job_name(name, number)
    assert len(ray["metadata"]["name"]) <= 47
    assert DNS_1035.fullmatch(ray["metadata"]["name"])
    for manifest in [*everything(named), ray, preflight_job(resolve(named, SETTINGS), SETTINGS, generation=generation)]:
        assert len(manifest["metadata"]["name"]) <= 63
        assert DNS_1035.fullmatch(manifest["metadata"]["name"])
        for path, node in _walk(manifest):
            if path.endswith(("labels", "matchLabels")):
                assert all(len(value) <= 63 for value in node.values())


@FEW
@given(jobs())
def test_kueue_gets_its_labels_and_a_suspended_ray_job(any_job: PromptInternJob) -> None:
    ray = ray_job(resolve(any_job, SETTINGS), SETTINGS, number=1)
    kueue = {k: v for k, v in any_job.metadata.labels.items() if k.startswith("kueue.x-k8s.io/")}
    assert {k: v for k, v in ray["metadata"]["labels"].items() if k.startswith("kueue.x-k8s.io/")} == kueue
    assert ray["spec"]["suspend"] == bool(kueue)
    assert "team" not in ray["metadata"]["labels"]


@FEW
@given(jobs())
def test_the_check_is_queued_only_if_the_chart_asks_for_it(any_job: PromptInternJob) -> None:
    """Only Kueue suspends the check: if Kueue manages no Jobs, a suspended one would wait for ever."""
    kueue = {k: v for k, v in any_job.metadata.labels.items() if k.startswith("kueue.x-k8s.io/")}
    for chart, wanted in ((SETTINGS, {}), (SETTINGS.model_copy(update={"checks_in_queue": True}), kueue)):
        check = preflight_job(resolve(any_job, chart), chart, generation=1)
        labels = {k: v for k, v in check["metadata"]["labels"].items() if k.startswith("kueue.x-k8s.io/")}
        assert labels == wanted
        assert "suspend" not in check["spec"]


def test_ray_knows_the_start_parameters() -> None:
    """KubeRay passes them on as options of `ray start`, which refuses an unknown one only when the pod starts."""
    from ray.scripts.scripts import start

    options = {option for parameter in start.params for option in parameter.opts}
    cluster = ray_job(resolve(job(), SETTINGS), SETTINGS, number=1)["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= options


def test_probes_ask_ray_where_it_answers() -> None:
    """A probe that asks the wrong port would never succeed, so that no job would start."""
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT, DEFAULT_DASHBOARD_PORT

    ports = {
        "head": {DEFAULT_DASHBOARD_AGENT_LISTEN_PORT, DEFAULT_DASHBOARD_PORT},
        "worker": {DEFAULT_DASHBOARD_AGENT_LISTEN_PORT},
    }
    for name, template in pod_templates(job()).items():
        for container in containers(template["spec"]):
            asked = ports.get(name, set()) if container["name"].startswith("ray-") else set()
            command = container["readinessProbe"]["exec"]["command"][-1] if asked else ""
            assert {int(port) for port in re.findall(r"localhost:(\d+)/", command)} == asked
            assert asked or "readinessProbe" not in container


@FEW
@given(jobs())
def test_the_ray_job_follows_the_spec(any_job: PromptInternJob) -> None:
    compute = any_job.spec.compute
    spec = ray_job(resolve(any_job, SETTINGS), SETTINGS, number=1)["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == compute.workers
    assert spec["backoffLimit"] == 0
    assert spec["submissionMode"] == "HTTPMode"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert spec["rayClusterSpec"]["rayVersion"] == (compute.ray_version or SETTINGS.ray_version)
    templates = pod_templates(any_job)
    for name, template in templates.items():
        selector = compute.node_selector if name == "worker" else compute.head_node_selector
        assert (template["spec"].get("nodeSelector") or {}) == (selector or {})
        assert len(template["spec"].get("tolerations") or []) == len(compute.tolerations or [])
    for name, template in templates.items():
        for container in containers(template["spec"]):
            assert container["image"] == (compute.image or SETTINGS.trainer_image)
        if name != "preflight":
            grace = template["spec"]["terminationGracePeriodSeconds"]
            assert grace == compute.termination_grace_period_seconds
            assert "preStop" in template["spec"]["containers"][0]["lifecycle"]


@FEW
@given(jobs())
def test_pods_mount_only_their_volumes_and_each_path_once(any_job: PromptInternJob) -> None:
    for template in pod_templates(any_job).values():
        volumes = [volume["name"] for volume in template["spec"]["volumes"]]
        assert len(set(volumes)) == len(volumes)
        for container in containers(template["spec"]):
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(set(paths)) == len(paths)
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            names = [variable["name"] for variable in container["env"]]
            assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", [FOLDER, SCRATCH, CA_FOLDER, TOKEN_FOLDER])
def test_no_model_cache_takes_a_path_of_the_pods(path: str) -> None:
    with pytest.raises(InvalidJob, match=r"modelCache\.mountPath"):
        job(storage=STORAGE, compute__modelCache={"claimName": "models", "mountPath": path})


def test_the_preflight_is_retried_unless_the_job_is_refused() -> None:
    spec = preflight_job(resolve(job(), SETTINGS), SETTINGS, generation=3)
    assert spec["metadata"]["annotations"] == {"promptintern.dev/generation": "3", "promptintern.dev/try": "1"}
    assert spec["spec"]["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy requires it"
    rule, taken = spec["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2]
    assert taken == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    (check,) = spec["spec"]["template"]["spec"]["containers"]
    assert rule["onExitCodes"]["containerName"] == check["name"]
    assert check["terminationMessagePath"] == check["command"][-1]


def test_the_role_allows_one_patch_of_one_jobs_status() -> None:
    (rule,) = role(job(name="mine"))["rules"]
    assert rule == {
        "apiGroups": ["promptintern.dev"],
        "resources": ["promptinternjobs/status"],
        "resourceNames": ["mine"],
        "verbs": ["patch"],
    }
    binding = role_binding(job(name="mine"))
    assert binding["roleRef"]["name"] == role(job(name="mine"))["metadata"]["name"]
    assert [s["namespace"] for s in binding["subjects"]] == ["team-a"]


def test_the_service_account_carries_the_annotations_of_a_cloud_identity() -> None:
    arn = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/runs"}
    account = service_account(job(compute__serviceAccountAnnotations=arn))
    assert account["metadata"]["annotations"] == arn
    assert "annotations" not in service_account(job())["metadata"]


@FEW
@given(jobs())
def test_the_network_policy_selects_every_pod_of_the_job(any_job: PromptInternJob) -> None:
    spec = network_policy(any_job, SETTINGS)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    selector = spec["podSelector"]["matchLabels"].items()
    for template in pod_templates(any_job).values():
        assert selector <= template["metadata"]["labels"].items()
    own = {"podSelector": {"matchLabels": dict(selector)}}
    assert {"from": [own]} in spec["ingress"]
    assert {"to": [own]} in spec["egress"]


def test_egress_may_name_pods_by_labels_or_only_ports() -> None:
    """Some network plugins do not match pods and nodes by address."""
    named = {"matchLabels": {"app": "storage"}}
    chart = Settings(
        egress=(
            EgressRule(namespace_selector={}, pod_selector=named, ports=[9000]),
            EgressRule(pod_selector=named),
            EgressRule(ports=[6443]),
        )
    )
    assert network_policy(job(), chart)["spec"]["egress"][-3:] == [
        {"to": [{"namespaceSelector": {}, "podSelector": named}], "ports": [{"protocol": "TCP", "port": 9000}]},
        {"to": [{"podSelector": named}]},
        {"ports": [{"protocol": "TCP", "port": 6443}]},
    ]


@pytest.mark.parametrize(
    "rule", [{}, {"except": ["10.0.0.0/8"], "ports": [1]}, {"cidr": "10.0.0.0/8", "podSelector": {}}, {"ports": []}]
)
def test_an_egress_rule_without_a_destination_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="cidr"):
        EgressRule.model_validate(rule)


def test_egress_follows_the_settings() -> None:
    chart = Settings(egress=(EgressRule(cidr="10.0.0.0/8", ports=[443, 9000]),), kuberay_namespace="ray")
    spec = network_policy(job(), chart)["spec"]
    assert spec["egress"][-1] == {
        "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 9000}],
    }
    (kuberay,) = spec["ingress"][1]["from"]
    assert kuberay["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ray"}
    assert spec["ingress"][1]["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_dns_follows_the_settings() -> None:
    dns = {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}
    chart = Settings(dns=(EgressRule(namespace_selector=dns, ports=[5353]),), egress=())
    assert network_policy(job(), chart)["spec"]["egress"][1:] == [
        {"to": [{"namespaceSelector": dns}], "ports": [{"protocol": p, "port": 5353} for p in ("UDP", "TCP")]}
    ]


@pytest.mark.parametrize(
    ("spec", "chart", "field"),
    [
        ({}, Settings(), "spec.storage"),
        ({}, SETTINGS, None),
        ({"storage": STORAGE}, Settings(), None),
        ({"storage__uri": "file:///runs"}, Settings(), "spec.storage.uri"),
        ({"storage__uri": "file:///models/runs", "compute__modelCache__claimName": "x"}, Settings(), None),
    ],
)
def test_a_job_that_this_cluster_cannot_run_is_refused(spec: Manifest, chart: Settings, field: str | None) -> None:
    assert [each.partition(":")[0] for each in refusals(resolve(job(**spec), chart))] == ([field] if field else [])


_UNITS = {"": 1, "m": Fraction(1, 1000), "k": 1000, "Ki": 1024, "M": 10**6, "Gi": 2**30}


@FEW
@given(number=st.integers(0, 64_000), unit=st.sampled_from(sorted(_UNITS)))
def test_cores_are_whole_and_at_least_one(number: int, unit: str) -> None:
    exact = number * _UNITS[unit]
    whole = cores(f"{number}{unit}")
    assert max(exact, 1) <= whole < max(exact + 1, 2)
