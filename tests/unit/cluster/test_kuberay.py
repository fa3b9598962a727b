"""The changes to KubeRay's own manifests."""

from tests.cluster.kuberay import IMAGE, NAMESPACE, manifests

SHIPPED = """\
apiVersion: v1
kind: ServiceAccount
metadata: {name: kuberay-operator, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kuberay-operator}
subjects: [{kind: ServiceAccount, name: kuberay-operator, namespace: default}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: kuberay-operator, namespace: default}
spec:
  template:
    spec:
      containers:
      - name: kuberay-operator
        image: somewhere/kuberay:1
        readinessProbe: {httpGet: {path: /metrics, port: http}}
"""


def test_everything_is_in_one_namespace_that_is_created_first() -> None:
    namespace, account, binding, deployment = manifests(SHIPPED)
    assert namespace["kind"] == "Namespace"
    assert {account["metadata"]["namespace"], deployment["metadata"]["namespace"]} == {NAMESPACE}
    assert "namespace" not in binding["metadata"]
    assert binding["subjects"][0]["namespace"] == NAMESPACE


def test_the_image_is_ours_and_is_never_pulled() -> None:
    (container,) = manifests(SHIPPED)[-1]["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == (IMAGE, "Never")
    assert container["readinessProbe"]["httpGet"] == {"path": "/metrics", "port": "http"}
