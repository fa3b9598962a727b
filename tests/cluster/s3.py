"""A real S3 server for tests: versitygw, built from its Go module, on a loopback port."""

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import botocore.session

from tests.cluster import guard

MODULE = Path(__file__).with_name("versitygw")
PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
REGION = "us-east-1"
_START_SECONDS = 30


class NoServer(Exception):  # noqa: N818 -- what it is
    """There is no way to build the server here. The message names what is missing."""


def build() -> Path:
    """The server's program, built once for every ``go.sum``; a first build takes a minute or more.

    Raises:
        NoServer: if Go is missing, or the module cannot be had.
    """
    pinned = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptintern" / "bin"
    program = cache / f"versitygw-{pinned}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise NoServer("no S3 server: Go is not installed, so versitygw cannot be built")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        unfinished = Path(folder) / "versitygw"
        built = subprocess.run(
            [go, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", str(unfinished), PACKAGE],
            cwd=MODULE,
            env={**os.environ, "CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode != 0:
            raise NoServer(f"no S3 server: versitygw cannot be built:\n{built.stderr[-2000:]}")
        unfinished.replace(program)
    return program


class S3Server:
    """One server with its own folder, credentials and port; the port stays the same over ``kill`` and ``start``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Below it: a folder per bucket, in it a file per object."""
        self.access_key = "test" + secrets.token_hex(8)
        self.secret_key = secrets.token_hex(20)
        self.port = free_port()
        self._program = build()
        self._process: subprocess.Popen[bytes] | None = None
        self._buckets = folder / "buckets"
        self._buckets.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a client's process needs in its environment, and nothing of the user's own."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = guard.start(
                [
                    str(self._program),
                    *("--port", f"127.0.0.1:{self.port}", "--region", REGION, "--quiet"),
                    *posix_backend(self._buckets, self.folder / "metadata"),
                ],
                env={**os.environ, "ROOT_ACCESS_KEY_ID": self.access_key, "ROOT_SECRET_ACCESS_KEY": self.secret_key},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not answers(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the S3 server did not start:\n{(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """After ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """``kill`` and ``start``."""
        self.kill()
        self.start()

    def create_bucket(self, name: str | None = None) -> str:
        """A new bucket's name."""
        name = name or f"bucket-{secrets.token_hex(6)}"
        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        client.create_bucket(Bucket=name)
        return name

    def object_path(self, bucket: str, key: str) -> Path:
        """Where the server keeps an object's bytes."""
        return self._buckets / bucket / key

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def posix_backend(buckets: Path, metadata: Path) -> list[str]:
    """The server's words for "keep objects as files"; ``metadata`` is for file systems without attributes."""
    if _has_attributes(buckets):
        return ["posix", str(buckets)]
    metadata.mkdir(exist_ok=True)
    return ["posix", "--sidecar", str(metadata), str(buckets)]


def answers(url: str) -> bool:
    """Whether an S3 server is up there."""
    try:
        urllib.request.urlopen(url, timeout=1)
    except urllib.error.HTTPError:
        return True  # it refuses those who do not sign, so it is up
    except OSError:
        return False
    return True


def _has_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.promptintern", b"1")
    except OSError:
        return False
    os.removexattr(folder, "user.promptintern")
    return True


if __name__ == "__main__":
    # Before the tests, so that a first build does not count against one test's time.
    try:
        print(build())
    except NoServer as missing:
        print(f"{missing}; tests that need it say that they did not run")
