"""Jobs run while their NetworkPolicies are enforced, and only KubeRay reaches them; `make e2e-more` runs this.

The chart lists only the destinations that a job needs, as docs/tenants.md recommends.
"""

import json
from collections.abc import Iterator

import pytest

from tests.cluster import network
from tests.e2e import project
from tests.e2e.short_job import SHORT, TIMEOUT_SECONDS, wait_until_training
from tests.e2e.tenant import SECRET, Team

_API_SERVER, _S3, _KUBELET, _DASHBOARD, _WEB = 6443, 7070, 10250, 8265, 8000
_LISTED = {
    "dns[0].cidr": f"{network.ADDRESS}/32",
    "dns[0].ports": "{53}",
    "egress[0].cidr": f"{network.ADDRESS}/32",
    "egress[0].ports": f"{{{_API_SERVER},{_S3}}}",
}
"""The DNS server, the API server and the S3 server of the test cluster are processes of its node."""
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10); print('yes')"


@pytest.fixture(scope="module")
def fenced(team: Team) -> Iterator[Team]:
    """The team, while policies are enforced."""
    team.cluster.start_policy_engine()
    _install(team)
    yield team
    project.install(team.cluster, secret=SECRET, bucket=team.account.bucket)
    team.cluster.stop_policy_engine()


def _install(team: Team, kuberay_namespace: str = "kuberay") -> None:
    values = {**_LISTED, "kuberayNamespace": kuberay_namespace}
    project.install(team.cluster, secret=SECRET, bucket=team.account.bucket, chart=project.CHART, **values)


@pytest.fixture(scope="module")
def strangers(fenced: Team) -> dict[str, str]:
    """Two pods of another namespace, one with KubeRay's label, which serve a web page; their addresses by name."""
    namespace, cluster = f"{fenced.namespace}-strangers", fenced.cluster
    labels = {"copy-of-kuberay": {"app.kubernetes.io/component": "kuberay-operator"}, "stranger": {}}
    container = {
        "name": "main",
        "image": project.OPERATOR_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python", "-m", "http.server", str(_WEB), "--directory", "/tmp"],
    }
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for name, own in labels.items():
        meta = {"name": name, "namespace": namespace, "labels": own}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}})
    cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--namespace", namespace, "--timeout=120s")
    pods = cluster.list("pods", namespace)
    return {pod["metadata"]["name"]: str(pod["status"]["podIP"]) for pod in pods}


def _reaches(team: Team, namespace: str, pod: str, address: str, port: int) -> bool:
    """Whether a connection from a pod is accepted."""
    target = ("exec", "--namespace", namespace, pod, "--")
    output = team.cluster.kubectl(*target, "python", "-c", _CONNECT, address, str(port), check=False)
    assert output.strip() == "yes" or "timed out" in output, output
    return output.strip() == "yes"


def test_a_job_with_two_workers_succeeds_and_its_pods_reach_what_is_listed(
    fenced: Team, strangers: dict[str, str]
) -> None:
    name = fenced.submit(name="fenced", **SHORT, compute__workers=2)
    wait_until_training(fenced, name, stage=0, step=1)
    (head,) = fenced.pods(name, "head")
    worker = fenced.pods(name, "worker")[0]["metadata"]["name"]
    head_address, other = head["status"]["podIP"], f"{fenced.namespace}-strangers"
    reached = {
        "worker -> head": _reaches(fenced, fenced.namespace, worker, head_address, _DASHBOARD),
        "worker -> S3": _reaches(fenced, fenced.namespace, worker, network.ADDRESS, _S3),
        "worker -> kubelet": _reaches(fenced, fenced.namespace, worker, network.ADDRESS, _KUBELET),
        "worker -> stranger": _reaches(fenced, fenced.namespace, worker, strangers["stranger"], _WEB),
        "stranger -> head": _reaches(fenced, other, "stranger", head_address, _DASHBOARD),
        "copy of KubeRay -> head": _reaches(fenced, other, "copy-of-kuberay", head_address, _DASHBOARD),
        "copy of KubeRay -> stranger": _reaches(fenced, other, "copy-of-kuberay", strangers["stranger"], _WEB),
    }
    allowed = {"worker -> head", "worker -> S3", "copy of KubeRay -> stranger"}
    assert reached == {connection: connection in allowed for connection in reached}
    fenced.wait(name, seconds=TIMEOUT_SECONDS)
    assert fenced.condition(name, "Succeeded").get("status") == "True", fenced.describe(name)


def test_a_wrong_namespace_of_kuberay_is_named(fenced: Team) -> None:
    _install(fenced, "elsewhere")
    name = fenced.submit(name="unreached", **SHORT)

    def is_reported() -> bool:
        condition = fenced.condition(name, "Training")
        return condition.get("reason") == "NotSubmitted" and "in namespace elsewhere" in condition["message"]

    fenced.cluster.wait_for(is_reported, TIMEOUT_SECONDS, f"NotSubmitted: {json.dumps(fenced.status(name))}")
    fenced.cluster.delete("pij", name, fenced.namespace)
