"""The schemas of everything that the fuzzer draws."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.cluster import programs
from tests.integration.operator.chart import CRD, create_crd
from tests.integration.operator.fuzz.values import Schema
from tests.integration.operator.requests import PODS, PREFLIGHTS, RAY_JOBS, Body, Requests

WORKLOADS = "/apis/kueue.x-k8s.io/v1beta1/namespaces/{}/workloads"
_CONDITION = {
    "type": "object",
    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
    "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
        "message": {"type": "string", "maxLength": 32768},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
    },
}
_WORKLOAD_STATUS = {"type": "object", "properties": {"conditions": {"type": "array", "items": _CONDITION}}}
"""The part of the status of a Workload that the operator reads, with the limits of Kueue's own definition."""


@dataclass(frozen=True, kw_only=True)
class Schemas:
    """The schemas of everything that is drawn."""

    spec: Schema
    training: Schema
    statuses: Mapping[str, Schema]
    """The schema of the status of each kind of dependent, by the path of the kind."""
    specs: Mapping[str, Schema]
    """The schema of the spec of each kind of dependent, by the path of the kind."""
    definitions: Mapping[str, Schema]
    """The schemas to which other schemas refer."""


def schemas_of(requests: Requests) -> Schemas:
    """Return the schemas of the installed definitions, and of the API server's own kinds."""
    ours, ray = _properties(CRD.read_text()), _properties(programs.ray_jobs_crd().read_text())
    core, batch = (
        requests.ask("GET", f"/openapi/v3/{path}")["components"]["schemas"] for path in ("api/v1", "apis/batch/v1")
    )
    return Schemas(
        spec=ours["spec"],
        training=ours["status"]["properties"]["training"],
        statuses={
            RAY_JOBS: ray["status"],
            PODS: core["io.k8s.api.core.v1.PodStatus"],
            PREFLIGHTS: batch["io.k8s.api.batch.v1.JobStatus"],
            WORKLOADS: _WORKLOAD_STATUS,
        },
        specs={
            RAY_JOBS: ray["spec"],
            PODS: core["io.k8s.api.core.v1.PodSpec"],
            PREFLIGHTS: batch["io.k8s.api.batch.v1.JobSpec"],
            WORKLOADS: {"type": "object"},
        },
        definitions=core | batch,
    )


def install_workloads(requests: Requests) -> None:
    """Create a definition of Kueue's Workloads that has only what the operator reads."""
    create_crd(requests, workloads_crd("v1beta1"))


def workloads_crd(*versions: str) -> Body:
    """Return a definition of Kueue's Workloads that has only what the operator reads, stored in the first version."""
    schema = {"type": "object", "properties": {"spec": {"type": "object"}, "status": _WORKLOAD_STATUS}}
    common = {"served": True, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "Workload", "listKind": "WorkloadList", "plural": "workloads", "singular": "workload"}
    return {
        "metadata": {
            "name": "workloads.kueue.x-k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue"},
        },
        "spec": {
            "group": "kueue.x-k8s.io",
            "scope": "Namespaced",
            "names": names,
            "versions": [{"name": name, "storage": name == versions[0]} | common for name in versions],
        },
    }


def _properties(definition: str) -> dict[str, Any]:
    """Return the schemas of the top-level fields of a CustomResourceDefinition in YAML."""
    version = yaml.load(definition, yaml.CSafeLoader)["spec"]["versions"][0]
    return dict(version["schema"]["openAPIV3Schema"]["properties"])
