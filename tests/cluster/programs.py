"""The cluster's programs, built from Go modules whose sources ``kubernetes/go.sum`` pins.

``newest/*/go.sum`` pin the newest KubeRay and Kueue. They are built, instead of the versions that ``kubernetes/go.sum``
pins, if ``PROMPTINTERN_TEST_VERSIONS`` is ``newest``.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.cluster.errors import CommandFailed, NoCluster
from tests.cluster.locks import locked
from tests.cluster.paths import cache

MODULE, NEWEST = Path(__file__).with_name("kubernetes"), Path(__file__).with_name("newest")
KUBERAY, KUEUE = "github.com/ray-project/kuberay/ray-operator", "sigs.k8s.io/kueue"
IS_NEWEST = os.environ.get("PROMPTINTERN_TEST_VERSIONS") == "newest"
"""Whether the newest KubeRay and Kueue are tested."""
VERSIONS = "newest" if IS_NEWEST else "pinned"
_COMPONENT = "k8s.io/kubernetes/cmd"

PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": f"{_COMPONENT}/kube-apiserver",
    "kubectl": f"{_COMPONENT}/kubectl",
    "helm": "helm.sh/helm/v3/cmd/helm",
    "kube-controller-manager": f"{_COMPONENT}/kube-controller-manager",
    "kube-scheduler": f"{_COMPONENT}/kube-scheduler",
    "kubelet": f"{_COMPONENT}/kubelet",
    "kube-proxy": f"{_COMPONENT}/kube-proxy",
    "coredns": "./coredns",
    "pause": "./pause",
    "kuberay-operator": KUBERAY,
    "kueue": f"{KUEUE}/cmd/kueue",
}
"""Go packages of the programs, in the order in which a cluster needs them."""

API_TIER = ("etcd", "kube-apiserver", "kubectl", "helm")
NODE_TIER = tuple(PACKAGES)

Echo = Callable[[str], None]


def echo(line: str) -> None:
    """Print a line of progress to standard error: a shell may evaluate standard output."""
    print(line, file=sys.stderr, flush=True)


def build(names: Iterable[str], echo: Echo = echo) -> None:
    """Build the programs of ``names`` that are missing.

    Raises:
        NoCluster: if Go is missing, or a module cannot be downloaded or compiled.
    """
    names = list(names)
    if all(_path(name).exists() for name in names):
        return
    with locked(_folder(MODULE) / "lock"):
        for name in names:
            if not _path(name).exists():
                began = time.monotonic()
                echo(f"building {name} ...")
                _build(name)
                echo(f"built {name} in {time.monotonic() - began:.0f} s")


def program(name: str) -> Path:
    """The path of a program, which is built if it is missing."""
    build([name])
    return _path(name)


def _path(name: str) -> Path:
    return _folder(_module_of(PACKAGES[name])) / name


def _module_of(package: str) -> Path:
    """The Go module that pins the version of ``package``."""
    newest = {KUBERAY: NEWEST / "kuberay", KUEUE: NEWEST / "kueue"} if IS_NEWEST else {}
    return next((module for prefix, module in newest.items() if package.startswith(prefix)), MODULE)


@functools.cache
def version(module: str) -> str:
    """The version that ``go.mod`` pins, such as ``v1.34.2``."""
    pins = _module_of(module) / "go.mod"
    match = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", pins.read_text(), re.MULTILINE)
    assert match, f"{module} is not in {pins}"
    return match[1]


@functools.cache
def module_folder(module: str) -> Path:
    """The folder of a module's source, which also contains its CRDs and manifests."""
    module_info = json.loads(_go(_module_of(module), "mod", "download", "-json", f"{module}@{version(module)}"))
    return Path(module_info["Dir"])


def kuberay_crds() -> list[Path]:
    """The files of KubeRay's CRDs."""
    return sorted((module_folder(KUBERAY) / "config/crd/bases").glob("*.yaml"))


def ray_jobs_crd() -> Path:
    """The file of the RayJob CRD."""
    return next(path for path in kuberay_crds() if path.name == "ray.io_rayjobs.yaml")


@functools.cache
def _folder(module: Path) -> Path:
    sources = [module / "go.mod", module / "go.sum", *sorted(module.glob("*/*.go"))]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    return cache() / "kubernetes" / digest


def _build(name: str) -> None:
    program, module = _path(name), _module_of(PACKAGES[name])
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_name(f".{name}")
    flags = " ".join(["-s", "-w", *(f"-X {variable}={value}" for variable, value in _versions().items())])
    _go(module, "build", "-mod=readonly", "-trimpath", f"-ldflags={flags}", "-o", str(unfinished), PACKAGES[name])
    unfinished.replace(program)


def _versions() -> dict[str, str]:
    """The variables that a release sets at link time; the programs compare their versions."""
    kubernetes = version("k8s.io/kubernetes")
    major, minor, _ = kubernetes.removeprefix("v").split(".")
    variables = {"k8s.io/component-base/version.gitVersion": kubernetes, "helm.sh/helm/v3/internal/version.version": ""}
    variables["helm.sh/helm/v3/internal/version.version"] = version("helm.sh/helm/v3")
    for package, names in {
        "k8s.io/component-base/version": ("gitMajor", "gitMinor"),
        "helm.sh/helm/v3/pkg/chartutil": ("k8sVersionMajor", "k8sVersionMinor"),
        "helm.sh/helm/v3/pkg/lint/rules": ("k8sVersionMajor", "k8sVersionMinor"),
    }.items():
        variables |= {f"{package}.{names[0]}": major, f"{package}.{names[1]}": minor}
    return variables


def _go(module: Path, *arguments: str) -> str:
    go = shutil.which("go")
    if go is None:
        raise NoCluster("no Kubernetes: Go is not installed, so its programs cannot be built; install Go 1.25 or newer")
    argv = [go, *arguments]
    completed = subprocess.run(
        argv, cwd=module, env={**os.environ, "CGO_ENABLED": "0"}, capture_output=True, text=True, check=False
    )
    if completed.returncode != 0:
        raise NoCluster(f"no Kubernetes: {CommandFailed(argv, completed.returncode, completed.stderr)}")
    return completed.stdout
