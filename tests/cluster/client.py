"""What tests do with any Kubernetes cluster: run kubectl and Helm, and wait for conditions."""

import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster import programs
from tests.cluster.errors import CommandFailed

Manifest = dict[str, Any]
T = TypeVar("T")
_POLL_SECONDS, _LONGEST_POLL = 0.2, 1.5
"""Seconds between two polls, at first and at most. They grow because a poll usually starts a kubectl process."""


class Client:
    """A Kubernetes cluster, reached through a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        """The administrator's kubeconfig."""

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002 -- subprocess's name
        """Run kubectl and return its standard output; after a failure without ``check``, that and its standard error.

        Raises:
            CommandFailed: if kubectl failed and ``check`` is set.
        """
        return self.run("kubectl", *arguments, input=input, check=check)

    def helm(self, *arguments: str, check: bool = True) -> str:
        """Run Helm like ``kubectl``, without the repositories and settings of the user."""
        return self.run("helm", *arguments, check=check)

    def run(self, program: str, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002
        """Run a command-line program of the cluster with the administrator's kubeconfig, like ``kubectl``."""
        argv = [str(programs.program(program)), *arguments]
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                argv,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "KUBECONFIG": str(self.kubeconfig)},
                input=input,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode == 0:
            return done.stdout
        if check:
            raise CommandFailed([program, *arguments], done.returncode, done.stderr + done.stdout)
        return done.stdout + done.stderr

    def apply(self, manifests: str | Manifest | Sequence[Manifest], namespace: str | None = None) -> str:
        """Apply YAML text or objects on the server's side."""
        if not isinstance(manifests, str):
            items = [manifests] if isinstance(manifests, dict) else list(manifests)
            manifests = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        scope = ["--namespace", namespace] if namespace else []
        return self.kubectl("apply", "--server-side", "--force-conflicts", *scope, "-f", "-", input=manifests)

    def get(self, kind: str, name: str, namespace: str | None = None) -> Manifest | None:
        """The object, or None if it does not exist."""
        scope = ["--namespace", namespace] if namespace else []
        answer = self.kubectl("get", kind, name, *scope, "--ignore-not-found", "-o", "json")
        return json.loads(answer) if answer.strip() else None

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> "list[Manifest]":
        """The objects of a kind, in one namespace or in all."""
        scope = ["--namespace", namespace] if namespace else ["--all-namespaces"]
        answer = self.kubectl("get", kind, *scope, *(["--selector", selector] if selector else []), "-o", "json")
        items: list[Manifest] = json.loads(answer)["items"]
        return items

    def delete(self, kind: str, name: str, namespace: str | None = None, *, wait: bool = True) -> None:
        """Delete the object if it exists."""
        scope = ["--namespace", namespace] if namespace else []
        self.kubectl("delete", kind, name, *scope, "--ignore-not-found", f"--wait={str(wait).lower()}")

    def install_crds(self, *files: Path) -> None:
        """Install CRDs, and wait until the API server serves them."""
        for file in files:
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file))
        for file in files:
            # kubectl wait fails on a CRD that is so new that it has no conditions yet.
            established = partial(self.kubectl, "wait", "--for=condition=Established", "--timeout=10s", "-f", str(file))
            self.wait_for(established, timeout=120, what=f"{file.name} to be served")

    def token(self, service_account: str, namespace: str, *, pod: str | None = None, seconds: int = 3600) -> str:
        """Create a ServiceAccount's token; bound to a pod, it has the pod's name and UID, like a projected token."""
        bound = ["--bound-object-kind", "Pod", "--bound-object-name", pod] if pod else []
        if pod:
            manifest = self.get("pod", pod, namespace)
            assert manifest is not None, f"there is no pod {namespace}/{pod} to bind a token to"
            bound += ["--bound-object-uid", manifest["metadata"]["uid"]]
        duration = f"--duration={seconds}s"
        return self.kubectl("create", "token", service_account, "--namespace", namespace, duration, *bound).strip()

    def kubeconfig_with_token(self, token: str, file: Path) -> Path:
        """Write a kubeconfig that authenticates with ``token`` to ``file``."""
        return write_kubeconfig(file, {**self.server(), "user": {"token": token}})

    def kubeconfig_for(self, user: str, groups: Sequence[str] = (), *, file: Path | None = None) -> Path:
        """Write a kubeconfig that impersonates another user; this machine's clusters sign a certificate instead."""
        admin = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        identity = {**admin["users"][0]["user"], "as": user, "as-groups": list(groups)}
        return write_kubeconfig(file or _temporary(user), {**self.server(), "user": identity})

    def server(self) -> Manifest:
        """The cluster's entry of a kubeconfig: the API server's URL and authority."""
        view = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        cluster: Manifest = view["clusters"][0]["cluster"]
        return {"cluster": cluster}

    def wait_for(self, condition: Callable[[], T], timeout: float = 60, what: str = "a condition") -> T:
        """Poll ``condition`` like the function ``wait_for``."""
        return wait_for(condition, timeout, what)


def wait_for(condition: Callable[[], T], timeout: float = 60, what: str = "a condition") -> T:
    """Poll ``condition`` until its value is true, and return that value.

    Raises:
        TimeoutError: after ``timeout`` seconds; the message names ``what`` and the last value or error.
    """
    began = time.monotonic()
    last: object = None
    while True:
        waited = time.monotonic() - began
        try:
            value = condition()
            if value:
                return value
            last = value
        except (CommandFailed, OSError) as failure:  # some tests stop the API server
            last = failure
        if waited > timeout:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}; last: {str(last)[:2000]}")
        time.sleep(min(_POLL_SECONDS + waited / 20, _LONGEST_POLL))


def write_kubeconfig(file: Path, entry: Manifest) -> Path:
    """Write a kubeconfig with one cluster and one user, as JSON, which is YAML too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": entry["cluster"]}],
        "users": [{"name": "test", "user": entry["user"]}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps(config, indent=1))
    return file


def encoded(file: Path) -> str:
    """The content of a file, in base64 as a kubeconfig embeds it."""
    return base64.b64encode(file.read_bytes()).decode()


def _temporary(user: str) -> Path:
    return Path(tempfile.mkdtemp(prefix="kubeconfig-")) / user.replace("/", "-").replace(":", "-")
