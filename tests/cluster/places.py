"""Where the test cluster keeps what it builds and what it runs on."""

import os
from pathlib import Path
from typing import Literal

Tier = Literal["api", "node"]
"""``api``: etcd and kube-apiserver. ``node``: a whole Kubernetes with a kubelet."""


def search_path() -> str:
    """``PATH`` with the folders of the machine's own tools, which not every user's shell looks into."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def cache() -> Path:
    """Programs and images: costly to make, the same for every cluster, safe to delete while none runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptintern"


def home(tier: Tier) -> Path:
    """What one running cluster owns: its state, keys, logs and data. It goes with the cluster."""
    given = os.environ.get("PROMPTINTERN_CLUSTER_HOME")
    return (Path(given).absolute() if given else cache() / "cluster") / tier
