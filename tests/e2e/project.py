"""The product as a platform engineer installs it: both images from their Dockerfiles, and the chart."""

import io
import subprocess
import tarfile
from pathlib import Path

from tests.cluster import images
from tests.cluster.cluster import Cluster

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/promptintern"
SYSTEM = "promptintern-system"
RELEASE = "promptintern"
_OPERATORS = "app.kubernetes.io/name=promptintern"
OPERATOR_IMAGE = "localhost/promptintern-operator:test"
TRAINER_IMAGE = "localhost/promptintern-trainer:test"

_SHARED = (
    "pyproject.toml",
    "uv.lock",
    "tools/uv.txt",
    "tools/sbom.sh",
    "tools/libraries.sh",
    "crds/pyproject.toml",
    "operator/pyproject.toml",
    "trainer/pyproject.toml",
)
_PACKAGES = {
    OPERATOR_IMAGE: ("operator", ("crds/promptintern_api", "operator/promptintern_operator")),
    TRAINER_IMAGE: ("trainer", ("crds/promptintern_api", "trainer/promptintern")),
}
_SMALL = {
    "podSizes.head.cpu": "100m",
    "podSizes.head.memory": "3Gi",
    "podSizes.worker.cpu": "200m",
    "podSizes.worker.memory": "3Gi",
    "podSizes.preflight.cpu": "200m",
    "podSizes.preflight.memory": "2Gi",
}
"""Pod sizes for two jobs at once on a machine with two cores; the chart's defaults are for GPU nodes."""


def load_images(cluster: Cluster) -> None:
    """Build the images whose sources changed, and load them into the node."""
    for tag, (folder, packages) in _PACKAGES.items():
        sources = [ROOT / path for path in (*_SHARED, *packages)]
        flags = {"UV_FLAGS": "--quiet"}  # this machine's uv cache is mounted
        cluster.load_image(images.build_image(ROOT / folder / "Dockerfile", ROOT, tag, flags, sources=sources), tag)


def install(cluster: Cluster, *, secret: str, bucket: str, chart: Path = CHART, **values: str) -> None:
    """Install or upgrade the release, with ``bucket`` as the default storage of all jobs."""
    settings = {
        "image.repository": OPERATOR_IMAGE.rpartition(":")[0],
        "image.tag": OPERATOR_IMAGE.rpartition(":")[2],
        "image.pullPolicy": "Never",
        "trainer.image": TRAINER_IMAGE,
        "trainer.imagePullPolicy": "Never",
        "defaultStorage.uri": f"s3://{bucket}/runs",
        "defaultStorage.endpoint": cluster.s3.endpoint,
        "defaultStorage.region": cluster.s3.region,
        "defaultStorage.secretName": secret,
        **_SMALL,
        **values,
    }
    arguments = [argument for name, value in settings.items() for argument in ("--set", f"{name}={value}")]
    cluster.helm(
        *("upgrade", "--install", RELEASE, str(chart)),
        *("--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "3m"),
        *arguments,
    )


def helm_test(cluster: Cluster) -> str:
    """Run `helm test` on the release, and return its output."""
    return cluster.helm("test", RELEASE, "--namespace", SYSTEM, "--timeout", "3m")


def uninstall(cluster: Cluster) -> None:
    """Uninstall the release; its CRD and the tenants' jobs stay."""
    cluster.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "3m")


def chart_before(folder: Path) -> Path:
    """Write the chart as it was before its last change into ``folder``, and return its path."""
    chart = CHART.relative_to(ROOT)

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout

    changed = git("log", "-1", "--format=%H", "--", str(chart)).decode().strip()
    with tarfile.open(fileobj=io.BytesIO(git("archive", f"{changed}^", str(chart)))) as files:
        files.extractall(folder, filter="data")
    return folder / chart


def operators(cluster: Cluster) -> set[str]:
    """The UIDs of the operator's pods, without those that are being deleted."""
    pods = [pod["metadata"] for pod in cluster.list("pods", SYSTEM, _OPERATORS)]
    return {pod["uid"] for pod in pods if not pod.get("deletionTimestamp")}


def delete_operators(cluster: Cluster) -> None:
    """Delete the operator's pods; its Deployment replaces them."""
    cluster.kubectl("delete", "pod", "--namespace", SYSTEM, "-l", _OPERATORS, "--wait=false")
