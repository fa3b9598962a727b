"""Kubernetes clusters that this project does not run itself: the user's cluster, or one that kind runs."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster import kuberay, oci
from tests.cluster.errors import CommandFailed, NoCluster
from tests.cluster.locks import locked
from tests.cluster.nodes import Nodes
from tests.cluster.paths import cache

VARIABLE = "PROMPTINTERN_TEST_KUBECONFIG"
_KIND_CLUSTER = "promptintern-test"
_KIND_CONFIG = Path(__file__).parents[2] / "kind-config.yaml"
_ENGINES = ("docker", "podman")


class ExternalCluster(Nodes):
    """A cluster whose processes tests cannot stop, unlike those of ``Cluster``."""

    def load_image(self, layout: Path, tag: str) -> None:
        """Raise ``NoCluster``: a cluster known only by its kubeconfig pulls images from a registry."""
        raise NoCluster(
            f"the image {tag} in {layout} cannot be loaded into a cluster known only by its kubeconfig; push it to a "
            "registry"
        )


class KindCluster(ExternalCluster):
    """A cluster that kind runs in containers of this machine."""

    def load_image(self, layout: Path, tag: str) -> None:
        """Load an image that was built here into every node."""
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            oci.write_archive(layout, tag, set(), archive.file)
            archive.flush()
            _run("kind", "load", "image-archive", archive.name, "--name", _KIND_CLUSTER)


def preferred() -> ExternalCluster | None:
    """The user's cluster, or one by kind if a container engine runs, or None if this machine must be the node."""
    return cluster_of_the_user() or (kind_cluster() if is_kind_available() else None)


def cluster_of_the_user() -> ExternalCluster | None:
    """The cluster of ``$PROMPTINTERN_TEST_KUBECONFIG``, or None if the variable is not set."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    if not Path(path).is_file():
        raise NoCluster(f"{VARIABLE}: {path} is not a file")
    return ExternalCluster(Path(path))


def is_kind_available() -> bool:
    """Whether kind is installed and a container engine runs."""
    if shutil.which("kind") is None:
        return False
    return any(shutil.which(engine) and _is_running(engine) for engine in _ENGINES)


def kind_cluster() -> KindCluster:
    """A cluster by kind with KubeRay. It stays until ``delete_kind``, because creating it takes minutes."""
    from tests.cluster.images import build_static_image

    with locked(cache() / "cluster" / "kind.lock"):
        kubeconfig = cache() / "cluster" / "kind.kubeconfig"
        if _KIND_CLUSTER not in _run("kind", "get", "clusters").split():
            options = ["--config", str(_KIND_CONFIG)] if _KIND_CONFIG.exists() else []
            _run("kind", "create", "cluster", "--name", _KIND_CLUSTER, "--kubeconfig", str(kubeconfig), *options)
        _run("kind", "export", "kubeconfig", "--name", _KIND_CLUSTER, "--kubeconfig", str(kubeconfig))
        cluster = KindCluster(kubeconfig)
        cluster.load_image(build_static_image(kuberay.IMAGE, "kuberay-operator", kuberay.ENTRYPOINT), kuberay.IMAGE)
        kuberay.install(cluster)
        return cluster


def delete_kind() -> None:
    """Delete the cluster that ``kind_cluster`` created."""
    if is_kind_available() and _KIND_CLUSTER in _run("kind", "get", "clusters").split():
        _run("kind", "delete", "cluster", "--name", _KIND_CLUSTER)


def _is_running(engine: str) -> bool:
    try:
        return subprocess.run([engine, "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _run(*argv: str) -> str:
    completed = subprocess.run(argv, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        raise CommandFailed(list(argv), completed.returncode, completed.stderr)
    return completed.stdout
