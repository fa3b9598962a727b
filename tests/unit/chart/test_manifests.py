"""Properties of the chart's objects that the snapshots cannot show."""

import ast
import json
import re
from itertools import pairwise

import pytest
import yaml
from prometheus_client import REGISTRY
from promptintern_api.compute import ComputeSpec
from promptintern_api.crd import custom_resource_definition
from promptintern_api.status import PromptInternJobStatus
from promptintern_operator import metrics
from promptintern_operator.manifests.network import network_policy
from promptintern_operator.settings import EgressRule, Settings

from tests.unit.chart.conftest import CHART, DEFAULTS, EVERYTHING, NAMESPACE, ROOT, Helm, Manifest, Values, of_kind
from tests.unit.operator.builders import job

SOURCE = ROOT / "crds" / "promptinternjobs.promptintern.dev.yaml"
COPY = CHART / "files" / "crd.yaml"


def test_the_crd_of_the_chart_is_up_to_date() -> None:
    assert COPY.read_text() == SOURCE.read_text(), f"{COPY} is stale: cp {SOURCE} {COPY}"


def test_the_crd_stays_on_uninstall_and_is_otherwise_as_generated(helm: Helm) -> None:
    (crd,) = of_kind(helm.objects(), "CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd == yaml.safe_load(SOURCE.read_text())
    assert not of_kind(helm.objects(values={"crds": {"install": False}}), "CustomResourceDefinition")


def test_pods_meet_pod_security_restricted(rendered: list[Manifest]) -> None:
    pods = [item["spec"] for item in of_kind(rendered, "Pod")]
    pods += [item["spec"]["template"]["spec"] for item in of_kind(rendered, "Deployment")]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] in (65532, 10001)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("emptyDir" in volume for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_a_cluster_may_choose_the_users_of_all_pods(helm: Helm) -> None:
    objects = helm.objects(values={"runAsUser": None, "pods": {"runAsUser": None}})
    pods = [item["spec"] for item in of_kind(objects, "Pod")]
    (deployment,) = of_kind(objects, "Deployment")
    for pod in (*pods, deployment["spec"]["template"]["spec"]):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (value,) = [item["value"] for item in container["env"] if item["name"] == "PROMPTINTERN_PODS"]
    assert json.loads(value)["runAsUser"] is None


def test_an_annotation_of_jobs_can_be_removed(helm: Helm) -> None:
    objects = helm.objects(values={"pods": {"annotations": {"karpenter.sh/do-not-disrupt": None}}})
    (deployment,) = of_kind(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (value,) = [item["value"] for item in container["env"] if item["name"] == "PROMPTINTERN_PODS"]
    assert json.loads(value)["annotations"] == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def test_services_budgets_and_policies_select_the_operator_alone(helm: Helm) -> None:
    objects = helm.objects(values=EVERYTHING)
    (deployment,) = of_kind(objects, "Deployment")
    (test,) = of_kind(objects, "Pod")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (service,) = of_kind(objects, "Service")
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    (network,) = of_kind(objects, "NetworkPolicy")
    (monitor,) = of_kind(objects, "ServiceMonitor")
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        network["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= test["metadata"]["labels"].items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


@pytest.mark.parametrize("values", [DEFAULTS, EVERYTHING], ids=["default", "everything"])
def test_the_operator_reaches_the_same_dns_servers_as_jobs(helm: Helm, values: Values) -> None:
    (network,) = of_kind(helm.objects(values=values | {"networkPolicy": {"enabled": True}}), "NetworkPolicy")
    rules = tuple(EgressRule.model_validate(rule) for rule in values["dns"])
    of_jobs = network_policy(job(), Settings(dns=rules, egress=()))
    assert network["spec"]["egress"][1:] == of_jobs["spec"]["egress"][1:]
    assert len(rules) == 2


def test_two_releases_that_are_limited_to_namespaces_share_no_name(helm: Helm) -> None:
    values = {"namespaces": ["team-a"], "crds": {"install": False}}
    names = [
        {
            (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
            for item in helm.objects("--namespace", namespace, values=values)
        }
        for namespace in ("one", "two")
    ]
    assert not names[0] & names[1]


def test_policies_apply_where_the_operator_serves(helm: Helm) -> None:
    bindings = of_kind(helm.objects(values=EVERYTHING), "ValidatingAdmissionPolicyBinding")
    assert len(bindings) == 3
    for binding in bindings:
        (expression,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
        assert expression == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a", "team-b"]}
        assert binding["spec"]["validationActions"] == ["Deny"]
    for binding in of_kind(helm.objects(), "ValidatingAdmissionPolicyBinding"):
        assert "matchResources" not in binding["spec"]


def test_policies_fail_closed(rendered: list[Manifest]) -> None:
    policies = of_kind(rendered, "ValidatingAdmissionPolicy")
    assert len(policies) >= 2
    for policy in policies:
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert all("messageExpression" in each or "message" in each for each in policy["spec"]["validations"])


def test_the_policy_of_the_status_names_every_field_but_training(helm: Helm) -> None:
    (policy,) = (
        item
        for item in of_kind(helm.objects(), "ValidatingAdmissionPolicy")
        if item["metadata"]["name"].endswith("-status")
    )
    (kept,) = (each["expression"] for each in policy["spec"]["variables"] if each["name"] == "restKept")
    sides = re.findall(r"object\.\?status\.\?(\w+) == oldObject\.\?status\.\?(\w+)", kept)
    assert all(one == other for one, other in sides)
    fields = [field.alias for field in PromptInternJobStatus.model_fields.values()]
    assert sorted(one for one, _ in sides) == sorted(name for name in fields if name and name != "training")


def _references(schema: Manifest, path: str) -> list[str]:
    """Return the fields of the spec that name a Secret or a claim, as CEL spells them."""
    fields = []
    for name, inner in schema.get("properties", {}).items():
        if "Secret" in name or "secret" in name or "claim" in name.lower():
            fields.append(f"{path}.{name}")
        else:
            fields += _references(inner, f"{path}.{name}")
            fields += _references(inner.get("items", {}), f"{path}.{name}[]")
    return fields


def test_the_deputy_policy_checks_everything_that_a_job_can_name(helm: Helm) -> None:
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert sorted(_references(schema, "spec")) == [
        "spec.compute.imagePullSecrets",
        "spec.compute.modelCache.claimName",
        "spec.model.secretRef",
        "spec.storage.secretRef",
    ], "the deputy policy must check a right to each of them; then change this list"
    (policy,) = (
        item
        for item in of_kind(helm.objects(), "ValidatingAdmissionPolicy")
        if item["metadata"]["name"].endswith("-deputy")
    )
    checks = [each["expression"] for each in policy["spec"]["validations"] if "check('get')" in each["expression"]]
    most = ComputeSpec.model_fields["image_pull_secrets"].metadata[0].max_length
    assert len(checks) == 3 + most
    for index in range(most):
        assert sum(f"pullSecrets[{index}].name" in check for check in checks) == 1
    (identity,) = [
        v["expression"] for v in policy["spec"]["validations"] if "serviceAccountAnnotations" in v["expression"]
    ]
    assert "resource('serviceaccounts').namespace(request.namespace).check('create')" in identity


def test_the_dashboard_queries_metrics_that_exist(helm: Helm) -> None:
    assert metrics.LEADING  # registers them
    names = {sample.name for family in REGISTRY.collect() for sample in family.samples if "_created" not in sample.name}
    kinds = {family.name: family.type for family in REGISTRY.collect()}
    names |= {f"{name}_bucket" for name, kind in kinds.items() if kind == "histogram"}
    names |= {f"{name}_total" for name, kind in kinds.items() if kind == "counter"}
    names |= set(kinds)
    (board,) = (
        json.loads(item["data"]["promptintern.json"])
        for item in of_kind(helm.objects(values=EVERYTHING), "ConfigMap")
        if "promptintern.json" in item["data"]
    )
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queried = {name for text in expressions for name in re.findall(r"\b(?:promptintern|process)_\w+", text)}
    assert queried <= names | {"process_resident_memory_bytes"}
    ours = {name for name in kinds if name.startswith("promptintern_")}
    assert all(any(name in text for text in expressions) for name in ours), "a metric without a panel"


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    spans = sorted(
        (row, panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for panel in board["panels"]
        for row in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    )
    for (row, _, end), (next_row, start, _) in pairwise(spans):
        assert row != next_row or end <= start
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_helm_test_runs_a_program_that_python_can_read(helm: Helm) -> None:
    (pod,) = of_kind(helm.objects(), "Pod")
    (container,) = pod["spec"]["containers"]
    assert ast.dump(ast.parse(container["args"][0])) == ast.dump(ast.parse((CHART / "files" / "check.py").read_text()))
    used = set(re.findall(r'environ\["(\w+)"\]', container["args"][0]))
    assert used == {item["name"] for item in container["env"]}
    (service,) = of_kind(helm.objects(), "Service")
    assert f"http://{service['metadata']['name']}:8081/readyz" in {item["value"] for item in container["env"]}


def test_every_object_is_in_the_namespace_of_the_release(helm: Helm) -> None:
    namespaces = {item["metadata"].get("namespace", NAMESPACE) for item in helm.objects()}
    assert namespaces == {NAMESPACE}
