"""Who the job's pods are, and the one thing they may do: say how training goes."""

from promptintern_api import PromptInternJob
from promptintern_api.job import GROUP, PLURAL

from promptintern_operator.manifests.meta import Manifest, child_name, metadata

_RBAC = "rbac.authorization.k8s.io"


def service_account(job: PromptInternJob) -> Manifest:
    """No token is mounted by itself; the head's is projected, and those of a cloud's identity are its webhook's."""
    annotations = job.spec.compute.service_account_annotations
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(job, child_name(job)) | ({"annotations": dict(annotations)} if annotations else {}),
        "automountServiceAccountToken": False,
    }


def role(job: PromptInternJob) -> Manifest:
    """Patching the status of this one job. A ValidatingAdmissionPolicy narrows it to ``status.training``."""
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
    """The role for the ServiceAccount."""
    name = child_name(job)
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(job, name),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": job.metadata.namespace}],
    }
