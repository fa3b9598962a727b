"""The environment variables of the Deployment are the settings that the operator reads."""

import pytest
from promptintern_api.compute import AddressingStyle, ServerSideEncryption
from promptintern_api.pods import RESERVED_ANNOTATIONS, RESERVED_LABELS
from promptintern_operator.settings import (
    OWN_VARIABLE,
    ConfigMapKeyRef,
    DefaultStorage,
    EgressRule,
    PodDefaults,
    PodSize,
    Settings,
    ValueFrom,
    Variable,
)

from tests.unit.chart.conftest import EVERYTHING, NAMED, SCHEMA, Helm, Manifest, Values, of_kind

PREFIX = "PROMPTINTERN_"


def _variables(objects: list[Manifest]) -> dict[str, str]:
    """Return the variables. The value of one that a field of the pod sets is the path of that field."""
    (deployment,) = of_kind(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {
        item["name"]: item["value"] if "value" in item else item["valueFrom"]["fieldRef"]["fieldPath"]
        for item in container["env"]
    }


def _settings(monkeypatch: pytest.MonkeyPatch, helm: Helm, values: Values) -> Settings:
    for name, value in _variables(helm.objects(values=values)).items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_every_variable_is_a_setting_and_every_setting_a_variable(helm: Helm) -> None:
    assert set(_variables(helm.objects(values=EVERYTHING))) == {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", NAMED)
def test_no_variable_is_unknown(helm: Helm, name: str) -> None:
    names = set(_variables(helm.objects(values=NAMED[name])))
    assert names <= {PREFIX + field.upper() for field in Settings.model_fields}


def test_the_defaults_of_chart_and_operator_are_the_same(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    chart = _settings(monkeypatch, helm, {}).model_dump()
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    defaults = Settings().model_dump()
    from_chart = {
        "operator_namespace": "metadata.namespace",
        "pod_name": "metadata.name",
        "lease_name": "promptintern",
    }
    assert chart == defaults | from_chart


def test_values_that_are_null_and_dollar_signs_reach_the_operator(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = {
        "labels": {"kept": "yes", "dropped": None},
        "annotations": {"karpenter.sh/do-not-disrupt": None, "new": None},
        "env": [{"name": "HF_HUB_USER_AGENT_ORIGIN", "value": "$(HOSTNAME) $x"}],
    }
    objects = helm.objects(values={"pods": pods})
    for name, value in _variables(objects).items():
        monkeypatch.setenv(name, value.replace("$$", "$"))  # as the kubelet does
    found = Settings().pods
    assert found.labels == {"kept": "yes"}
    assert found.annotations == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    assert [variable.value for variable in found.env] == ["$(HOSTNAME) $x"]
    assert "$(HOSTNAME)" not in _variables(objects)["PROMPTINTERN_PODS"].replace("$$(", "")


def test_chart_and_operator_refuse_the_same_variables_and_labels() -> None:
    pods = SCHEMA["properties"]["pods"]["properties"]
    assert pods["env"]["items"]["properties"]["name"]["not"]["pattern"] == f"^({OWN_VARIABLE.pattern})$"
    for name, reserved in (("labels", RESERVED_LABELS), ("annotations", RESERVED_ANNOTATIONS)):
        pattern = f"^({'|'.join(key.replace('.', chr(92) + '.') for key in reserved)})"
        assert pods[name]["patternProperties"] == {pattern: False}


def test_every_value_arrives(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _settings(monkeypatch, helm, EVERYTHING) == Settings(
        namespaces=("team-a", "team-b"),
        operator_namespace="metadata.namespace",
        pod_name="metadata.name",
        lease_name="prompts",
        trainer_image="registry.example/team/trainer:2.0",
        image_pull_policy="Always",
        ray_version="2.61.0",
        default_storage=DefaultStorage(
            uri="s3://platform/runs",
            endpoint="https://s3.example",
            region="eu-1",
            addressing_style=AddressingStyle.VIRTUAL,
            server_side_encryption=ServerSideEncryption.KMS,
            kms_key_id="key-7",
            secret_name="platform-s3",
        ),
        head_size=PodSize(cpu="500m", memory="2Gi", ephemeral_storage="5Gi"),
        worker_size=PodSize(cpu="8", memory="64Gi", ephemeral_storage="200Gi"),
        preflight_size=PodSize(cpu="2", memory="6Gi", ephemeral_storage="10Gi"),
        pods=PodDefaults(
            gpu_resource="amd.com/gpu",
            runtime_class_name="gvisor",
            gpu_runtime_class_name="nvidia",
            scheduler_name="volcano",
            labels={"sidecar.istio.io/inject": "false"},
            annotations={
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
                "karpenter.sh/do-not-disrupt": "true",
                "example.org/owner": "platform",
            },
            env=[
                Variable(name="HTTPS_PROXY", value="http://proxy.example:3128"),
                Variable(
                    name="HF_ENDPOINT",
                    value_from=ValueFrom(config_map_key_ref=ConfigMapKeyRef(name="hub", key="endpoint", optional=True)),
                ),
            ],
            cpu_limits=True,
            run_as_user=None,
        ),
        checks_in_queue=True,
        dns=(
            EgressRule(
                namespace_selector={"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}},
                pod_selector={"matchLabels": {"dns.operator.openshift.io/daemonset-dns": "default"}},
                ports=[5353],
            ),
            EgressRule(cidr="fd00::10/128", ports=[53]),
        ),
        egress=(
            EgressRule(cidr="10.1.0.0/16", except_=["10.1.2.0/24"], ports=[443, 9000]),
            EgressRule(
                namespace_selector={"matchLabels": {"kubernetes.io/metadata.name": "storage"}},
                pod_selector={},
                ports=[9000],
            ),
            EgressRule(ports=[6443]),
        ),
        kuberay_namespace="ray-system",
        stuck_seconds=60,
        queue_seconds=5,
        retry_seconds=1,
        retry_seconds_max=1_000_000,
        concurrency=4,
        leader_election=True,
        lease_seconds=30,
        probe_port=18081,
        metrics_port=19090,
        silence_seconds=300,
    )
