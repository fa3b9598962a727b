"""The identity of a job's pods and their only right, which is to report the progress of training."""

from promptintern_api import PromptInternJob
from promptintern_api.kind import GROUP, PLURAL

from promptintern_operator.manifests.meta import Manifest, child_name, metadata

_RBAC = "rbac.authorization.k8s.io"


def service_account(job: PromptInternJob) -> Manifest:
    """Return the ServiceAccount. No token is mounted automatically: the head gets a projected token, and a cloud's
    identity webhook mounts a token of its own.
    """
    annotations = job.spec.compute.service_account_annotations
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(job, child_name(job)) | ({"annotations": dict(annotations)} if annotations else {}),
        "automountServiceAccountToken": False,
    }


def role(job: PromptInternJob) -> Manifest:
    """Return the Role, which allows patching the status of this job; an admission policy limits it to ``training``."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": metadata(job, child_name(job)),
        "rules": [
            {
                "apiGroups": [GROUP],
                "resources": [f"{PLURAL}/status"],
                "resourceNames": [job.metadata.name],
                "verbs": ["patch"],
            }
        ],
    }


def role_binding(job: PromptInternJob) -> Manifest:
    """Return the RoleBinding that grants the Role to the ServiceAccount."""
    name = child_name(job)
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(job, name),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": job.metadata.namespace}],
    }
