"""Random valid jobs, which vary in the fields that the operator's manifests depend on."""

from typing import Any

from hypothesis import strategies as st
from promptintern_api import PromptInternJob

from tests.unit.operator.builders import QUEUE_LABEL, job

_QUANTITIES = st.one_of(
    st.integers(1, 64).map(str),
    st.integers(1, 64_000).map("{}m".format),
    st.sampled_from(["0.5", "1.5", "2k", "1Ki", "1M"]),
)
_MEMORY = st.sampled_from(["512Mi", "8Gi", "1000M", "1T", "1073741824"])
_NAMES = st.from_regex(r"\A[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?\Z")
_RESOURCES = st.fixed_dictionaries(
    {}, optional={"cpu": _QUANTITIES, "memory": _MEMORY, "ephemeralStorage": st.sampled_from(["5Gi", "200G"])}
)
_VARIABLES = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["HTTP_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "HF_ENDPOINT", "NCCL_DEBUG"]),
            "value": st.sampled_from(["", "http://proxy.example:3128", "$(HOME)", "a$b", ".example,10.0.0.0/8"]),
        }
    ),
    max_size=4,
    unique_by=lambda variable: variable["name"],
)
_TOLERATION = st.fixed_dictionaries(
    {"operator": st.just("Exists")}, optional={"key": st.just("gpu"), "effect": st.just("NoSchedule")}
) | st.fixed_dictionaries({"key": st.just("gpu")}, optional={"operator": st.just("Equal"), "value": st.just("yes")})
_CACHE = st.fixed_dictionaries(
    {"claimName": _NAMES},
    optional={"mountPath": st.sampled_from(["/models", "/data/hf"]), "readOnly": st.booleans()},
)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_COMPUTE: dict[str, st.SearchStrategy[Any]] = {
    "workers": st.integers(1, 1024),
    "gpusPerWorker": st.integers(0, 16),
    "image": st.sampled_from(["registry.example/trainer@sha256:0", "trainer"]),
    "rayVersion": st.just("2.61.1"),
    "resources": _RESOURCES,
    "headResources": _RESOURCES,
    "nodeSelector": st.dictionaries(_NAMES, _NAMES, max_size=3),
    "headNodeSelector": st.dictionaries(_NAMES, _NAMES, max_size=3),
    "tolerations": st.lists(_TOLERATION, max_size=3),
    "affinity": st.just({"podAntiAffinity": {REQUIRED: [{"labelSelector": {}, "topologyKey": "zone"}]}}),
    "priorityClassName": _NAMES,
    "imagePullSecrets": st.lists(st.fixed_dictionaries({"name": _NAMES}), max_size=3),
    "modelCache": _CACHE,
    "gpuResource": st.sampled_from(["nvidia.com/mig-3g.40gb", "amd.com/gpu"]),
    "runtimeClassName": st.just("nvidia"),
    "schedulerName": st.just("volcano"),
    "podLabels": st.just({"sidecar.istio.io/inject": "false"}),
    "podAnnotations": st.just({"karpenter.sh/do-not-disrupt": "false", "kueue.x-k8s.io/podset-required-topology": "r"}),
    "env": _VARIABLES,
    "terminationGracePeriodSeconds": st.integers(0, 86_400),
}
STORAGE = {"uri": "s3://team-a/runs", "endpoint": "https://s3.example", "secretRef": {"name": "team-a-s3"}}
NAMES = st.from_regex(r"\A[a-z]([-a-z0-9]{0,38}[a-z0-9])?\Z")
"""Names of jobs."""


@st.composite
def jobs(draw: st.DrawFn) -> PromptInternJob:
    """Draw a job."""
    spec: dict[str, Any] = {"compute": draw(st.fixed_dictionaries({}, optional=_COMPUTE))}
    if draw(st.booleans()):
        spec["storage"] = STORAGE
    if draw(st.booleans()):
        spec |= {"model__uri": "hf://acme/gated", "model__secretRef": {"name": "hub"}}
    labels = draw(st.sampled_from([{}, QUEUE_LABEL, {**QUEUE_LABEL, "kueue.x-k8s.io/priority-class": "high"}]))
    return job(name=draw(NAMES), labels={**labels, "team": "a"}, **spec)
