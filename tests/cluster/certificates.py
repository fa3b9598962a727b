"""A certificate authority of the cluster's own: who holds a certificate of it is the user that it names."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.errors import CommandFailed, NoCluster

_DAYS = "365"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Makes what it is asked for below ``folder``, or takes what is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.own = Pair(folder / "ca.crt", folder / "ca.key")
        if not self.own.certificate.exists():
            _new_key(self.own.key)
            # The default extensions of a self-signed request make it an authority.
            subject = ["-subj", "/CN=promptintern-test-cluster", "-days", _DAYS]
            _openssl("req", "-x509", "-new", "-key", self.own.key, *subject, "-out", self.own.certificate)

    def issue(self, name: str, *, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Pair:
        """A certificate for ``user`` in ``groups`` that also serves under ``hosts``, such as ``IP:10.0.0.1``."""
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        if pair.certificate.exists():
            return pair
        _new_key(pair.key)
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        subject = "".join(f"/O={_escaped(group)}" for group in groups) + f"/CN={_escaped(user)}"
        _openssl("req", "-new", "-key", pair.key, "-subj", subject, "-out", request)
        lines = ["keyUsage=digitalSignature", "extendedKeyUsage=clientAuth,serverAuth"]
        extensions.write_text("\n".join([*lines, *([f"subjectAltName={','.join(hosts)}"] if hosts else [])]))
        by = ["-CA", str(self.own.certificate), "-CAkey", str(self.own.key), "-CAcreateserial", "-days", _DAYS]
        _openssl("x509", "-req", "-in", request, *by, "-extfile", extensions, "-out", pair.certificate)
        request.unlink()
        extensions.unlink()
        return pair

    def signing_key(self, name: str) -> Path:
        """A key alone, such as the one that signs ServiceAccounts' tokens."""
        path = self.folder / f"{name}.key"
        if not path.exists():
            _new_key(path)
        return path


def _new_key(path: Path) -> None:
    path.touch(mode=0o600)
    _openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", path)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("/", "\\/").replace("+", "\\+")


def _openssl(*arguments: str | Path) -> None:
    argv = ["openssl", *map(str, arguments)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoCluster("no Kubernetes: its certificates are made with openssl, which is not installed") from None
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr)
