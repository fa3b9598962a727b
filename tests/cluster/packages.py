"""The Debian packages that a node needs, installed if they are missing."""

import os
import shutil
import subprocess

from tests.cluster import programs
from tests.cluster.errors import NoCluster
from tests.cluster.programs import Echo

NODE = ("containerd", "runc", "containernetworking-plugins", "iptables", "conntrack", "iproute2", "openssl")
IMAGES = ("buildah", "debootstrap", "skopeo")


def install(names: tuple[str, ...], echo: Echo = programs.echo) -> None:
    """Install the packages that are missing.

    Raises:
        NoCluster: if packages are missing and this is not a Debian system with root.
    """
    missing = [name for name in names if not _installed(name)]
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise NoCluster(
            f"no Kubernetes: {', '.join(missing)}: not installed; installing packages needs apt-get and root"
        )
    echo(f"installing {' '.join(missing)} ...")
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        completed = subprocess.run(
            ["apt-get", *command],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode != 0:
            raise NoCluster(
                f"no Kubernetes: apt-get {' '.join(command)} failed:\n{(completed.stderr or completed.stdout)[-2000:]}"
            )


def _installed(name: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}", name]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.startswith("ii")
