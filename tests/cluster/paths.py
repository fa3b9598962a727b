"""The folders in which the test cluster keeps its programs and its state."""

import os
from pathlib import Path
from typing import Literal

Tier = Literal["api", "node"]
"""``api``: etcd and kube-apiserver. ``node``: a whole Kubernetes with a kubelet."""


def search_path() -> str:
    """``PATH`` with the folders of system tools, which are not in every user's ``PATH``."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def cache() -> Path:
    """The folder of programs and images, which all clusters share; it is safe to delete while no cluster runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptintern"


def home(tier: Tier) -> Path:
    """The folder of one cluster's state, keys, logs and data, which is removed with the cluster."""
    folder = os.environ.get("PROMPTINTERN_CLUSTER_HOME")
    return (Path(folder).absolute() if folder else cache() / "cluster") / tier
