"""A Kubernetes that somebody else runs: the one of a kubeconfig, or one in containers by kind."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster import kuberay, oci
from tests.cluster.errors import CommandFailed, NoCluster
from tests.cluster.locks import locked
from tests.cluster.nodes import Nodes
from tests.cluster.places import cache

VARIABLE = "PROMPTINTERN_TEST_KUBECONFIG"
_KIND_CLUSTER = "promptintern-test"
_KIND_CONFIG = Path(__file__).parents[2] / "kind-config.yaml"
_ENGINES = ("docker", "podman")


class ForeignCluster(Nodes):
    """What tests can do on any cluster. Faults of the machine's own processes are for ``Cluster`` alone."""

    def load_image(self, layout: Path, tag: str) -> None:
        """A cluster that is only known by its kubeconfig pulls images; push ``tag`` where it can."""
        raise NoCluster(f"{tag} in {layout} cannot be loaded into a cluster known by its kubeconfig alone; push it")


class KindCluster(ForeignCluster):
    """A cluster in containers of this machine's engine."""

    def load_image(self, layout: Path, tag: str) -> None:
        """Make an image that was built here known to every node."""
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            oci.write_archive(layout, tag, set(), archive.file)
            archive.flush()
            _run("kind", "load", "image-archive", archive.name, "--name", _KIND_CLUSTER)


def preferred() -> ForeignCluster | None:
    """The user's own, else kind's where a container engine answers; None if this machine must be the node."""
    return named_by_the_user() or (kind_cluster() if kind_answers() else None)


def named_by_the_user() -> ForeignCluster | None:
    """The cluster of ``$PROMPTINTERN_TEST_KUBECONFIG``."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    if not Path(given).is_file():
        raise NoCluster(f"{VARIABLE} names {given}, which is no file")
    return ForeignCluster(Path(given))


def kind_answers() -> bool:
    """Whether kind is installed and a container engine answers it."""
    if shutil.which("kind") is None:
        return False
    return any(shutil.which(engine) and _answers(engine) for engine in _ENGINES)


def kind_cluster() -> KindCluster:
    """A cluster by kind with KubeRay. It stays until ``delete_kind``, since it takes minutes to make."""
    from tests.cluster.images import build_static_image

    with locked(cache() / "cluster" / "kind.lock"):
        kubeconfig = cache() / "cluster" / "kind.kubeconfig"
        if _KIND_CLUSTER not in _run("kind", "get", "clusters").split():
            configured = ["--config", str(_KIND_CONFIG)] if _KIND_CONFIG.exists() else []
            _run("kind", "create", "cluster", "--name", _KIND_CLUSTER, "--kubeconfig", str(kubeconfig), *configured)
        _run("kind", "export", "kubeconfig", "--name", _KIND_CLUSTER, "--kubeconfig", str(kubeconfig))
        cluster = KindCluster(kubeconfig)
        cluster.load_image(build_static_image(kuberay.IMAGE, "kuberay-operator", kuberay.ENTRYPOINT), kuberay.IMAGE)
        kuberay.install(cluster)
        return cluster


def delete_kind() -> None:
    """Remove the cluster that ``kind_cluster`` made."""
    if kind_answers() and _KIND_CLUSTER in _run("kind", "get", "clusters").split():
        _run("kind", "delete", "cluster", "--name", _KIND_CLUSTER)


def _answers(engine: str) -> bool:
    try:
        return subprocess.run([engine, "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(list(argv), done.returncode, done.stderr)
    return done.stdout
