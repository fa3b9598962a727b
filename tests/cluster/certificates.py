"""The cluster's certificate authority: the API server takes the subject of its certificates as user and groups."""

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
    """A certificate authority in ``folder``, whose keys and certificates are created when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.own = Pair(folder / "ca.crt", folder / "ca.key")
        if not self.own.certificate.exists():
            _new_key(self.own.key)
            # openssl's default extensions for a self-signed request make the certificate an authority.
            subject = ["-subj", "/CN=promptintern-test-cluster", "-days", _DAYS]
            _openssl("req", "-x509", "-new", "-key", self.own.key, *subject, "-out", self.own.certificate)

    def issue(self, name: str, *, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Pair:
        """A certificate for ``user`` in ``groups``, valid also for a server at ``hosts``, such as ``IP:10.0.0.1``."""
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        if pair.certificate.exists():
            return pair
        _new_key(pair.key)
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        subject = "".join(f"/O={_escaped(group)}" for group in groups) + f"/CN={_escaped(user)}"
        _openssl("req", "-new", "-key", pair.key, "-subj", subject, "-out", request)
        lines = ["keyUsage=digitalSignature", "extendedKeyUsage=clientAuth,serverAuth"]
        extensions.write_text("\n".join([*lines, *([f"subjectAltName={','.join(hosts)}"] if hosts else [])]))
        issuer = ["-CA", str(self.own.certificate), "-CAkey", str(self.own.key), "-CAcreateserial", "-days", _DAYS]
        _openssl("x509", "-req", "-in", request, *issuer, "-extfile", extensions, "-out", pair.certificate)
        request.unlink()
        extensions.unlink()
        return pair

    def signing_key(self, name: str) -> Path:
        """A private key without a certificate, such as the one that signs the tokens of ServiceAccounts."""
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
        completed = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoCluster("no Kubernetes: its certificates need openssl, which is not installed") from None
    if completed.returncode != 0:
        raise CommandFailed(argv, completed.returncode, completed.stderr)
