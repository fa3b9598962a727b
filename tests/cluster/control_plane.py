"""etcd and kube-apiserver as processes of this machine, in both tiers."""

import contextlib
import functools
import hashlib
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.certificates import Authority
from tests.cluster.client import Manifest, encoded, wait_for, write_kubeconfig
from tests.cluster.processes import Processes
from tests.cluster.programs import program

ISSUER = "https://kubernetes.default.svc.cluster.local"
_START_SECONDS = 180


class ControlPlane:
    """One API server with one etcd; both keep their ports when they are stopped and started again."""

    def __init__(self, home: Path, *, address: str, port: int, service_range: str) -> None:
        self.home = home
        self.address = address
        self.port = port
        self.service_range = service_range
        self.processes = Processes(home / "processes")

    @functools.cached_property
    def authority(self) -> Authority:
        """The authority that signs the certificates of this cluster."""
        return Authority(self.home / "keys")

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    def start(self, *flags: str) -> None:
        """Start both, and wait until the API server is ready. ``flags`` are additional flags of the API server."""
        clients, peers = free_port(), free_port()
        etcd, peer = f"http://127.0.0.1:{clients}", f"http://127.0.0.1:{peers}"
        self.processes.start(
            "etcd",
            [
                *(str(program("etcd")), "--name=test", f"--data-dir={self.home / 'etcd'}", "--log-level=warn"),
                *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                f"--initial-cluster=test={peer}",
                "--unsafe-no-fsync",  # a test cluster need not survive a power failure
            ],
        )
        self.processes.start("kube-apiserver", [str(program("kube-apiserver")), *self._flags(etcd), *flags])
        self.write_kubeconfig(self.kubeconfig, user="admin", groups=["system:masters"])
        self.wait_until_ready()

    def start_api_server(self) -> None:
        """Start the API server again on the same port after its process was stopped."""
        self.processes.restart("kube-apiserver")
        self.wait_until_ready()

    def write_kubeconfig(self, file: Path, *, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig with a certificate for ``user`` in ``groups``."""
        name = hashlib.sha256("\n".join([user, *groups]).encode()).hexdigest()[:16]
        pair = self.authority.issue(f"client-{name}", user=user, groups=groups)
        identity = {"client-certificate-data": encoded(pair.certificate), "client-key-data": encoded(pair.key)}
        return write_kubeconfig(file, {**self.entry(), "user": identity})

    def entry(self) -> Manifest:
        """The cluster's entry of a kubeconfig: the API server's URL and authority."""
        authority = encoded(self.authority.own.certificate)
        return {"cluster": {"server": self.url, "certificate-authority-data": authority}}

    def healthy(self) -> bool:
        """Whether the API server reports that it is ready."""
        try:
            context = ssl.create_default_context(cafile=str(self.authority.own.certificate))
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_ready(self) -> None:
        """Wait until the API server is ready; raise RuntimeError if a process ends before."""

        def ready() -> bool:
            for name in ("etcd", "kube-apiserver"):
                if not self.processes.alive(name):
                    raise RuntimeError(f"{name} ended during its start:\n{self.processes.tail(name)}")
            return self.healthy()

        log = self.processes.log("kube-apiserver")
        wait_for(ready, _START_SECONDS, f"the API server at {self.url}; its log: {log}")

    def _flags(self, etcd: str) -> list[str]:
        keys = self.authority
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", ISSUER.removeprefix("https://")]
        first_service = self.service_range.rpartition(".")[0] + ".1"
        hosts = [f"IP:{self.address}", "IP:127.0.0.1", f"IP:{first_service}", *(f"DNS:{name}" for name in names)]
        serving = keys.issue("kube-apiserver", user="kube-apiserver", hosts=hosts)
        kubelet = keys.issue("kubelet-client", user="kube-apiserver", groups=["system:masters"])
        front = keys.issue("front-proxy", user="front-proxy")
        tokens = keys.signing_key("service-account")
        return [
            f"--etcd-servers={etcd}",
            *(f"--bind-address={self.address}", f"--secure-port={self.port}"),
            *(f"--tls-cert-file={serving.certificate}", f"--tls-private-key-file={serving.key}"),
            f"--client-ca-file={keys.own.certificate}",
            *(f"--service-account-issuer={ISSUER}", f"--service-account-key-file={tokens}"),
            f"--service-account-signing-key-file={tokens}",
            f"--service-cluster-ip-range={self.service_range}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            # Extension API servers, such as Kueue's, trust requests that present this certificate.
            *(f"--requestheader-client-ca-file={keys.own.certificate}", "--requestheader-allowed-names=front-proxy"),
            *("--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group"),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            *(f"--proxy-client-cert-file={front.certificate}", f"--proxy-client-key-file={front.key}"),
            *(f"--kubelet-client-certificate={kubelet.certificate}", f"--kubelet-client-key={kubelet.key}"),
            "--kubelet-preferred-address-types=InternalIP",  # no DNS server resolves the node's name
            *("--profiling=false", "--shutdown-delay-duration=0s"),
        ]


def free_port(address: str = "127.0.0.1") -> int:
    """A port on which no process listens."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])
