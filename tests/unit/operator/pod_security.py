"""The rules of Pod Security "restricted" as a checker (kubernetes.io/docs/concepts/security/pod-security-standards)."""

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SECCOMP = ("RuntimeDefault", "Localhost")


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every container of a pod."""
    return [*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])]


def breaches(spec: dict[str, Any]) -> list[str]:
    """Return what the "restricted" level forbids in a pod's spec."""
    return [*_of_pod(spec), *(breach for each in containers(spec) for breach in _of_container(each, spec))]


def _of_pod(spec: dict[str, Any]) -> Iterator[str]:
    yield from (f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    for volume in spec.get("volumes", []):
        kinds = volume.keys() - {"name"}
        if not kinds or not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is {kinds}"
    if spec.get("securityContext", {}).get("sysctls"):
        yield "sysctls are set"


def _of_container(container: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    own, pods = container.get("securityContext", {}), spec.get("securityContext", {})
    name = container["name"]
    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities"
    if own.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True:
        yield f"{name}: runAsNonRoot"
    if own.get("runAsUser", pods.get("runAsUser")) == 0:
        yield f"{name}: runs as root"
    if own.get("seccompProfile", pods.get("seccompProfile", {})).get("type") not in _SECCOMP:
        yield f"{name}: seccompProfile"
    if own.get("procMount", "Default") != "Default" or "seLinuxOptions" in own or "seLinuxOptions" in pods:
        yield f"{name}: procMount or seLinuxOptions"
    yield from (f"{name}: hostPort" for port in container.get("ports", []) if port.get("hostPort"))
