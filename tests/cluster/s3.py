"""A real S3 server for tests: versitygw, built from its Go module, on a loopback port."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import botocore.session

from tests.cluster import guard, modules
from tests.cluster.errors import NoCluster

MODULE = Path(__file__).with_name("versitygw")
PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
REGION = "us-east-1"
_START_SECONDS = 30


class NoServer(Exception):  # noqa: N818 -- a state of the machine
    """This machine cannot build the server. The message names what is missing."""


def build() -> Path:
    """Build the server's program once for each ``go.sum``, and return its path. A first build takes a minute or more.

    Raises:
        NoServer: if Go is missing, or the module cannot be downloaded or compiled.
    """
    try:
        return modules.build(MODULE, PACKAGE, "versitygw")
    except NoCluster as missing:
        raise NoServer(f"no S3 server: {missing}") from missing


class S3Server:
    """A server with its own folder, credentials and port. It keeps the port when it is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """The server's folder, with a folder for each bucket and a file for each object."""
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
        """Environment variables with which a client process uses this server and none of the user's AWS settings."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start the server, and wait until it answers."""
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
        """End the server by SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once, as a power failure would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Pause the server: it keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the server after ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill the server and start it again."""
        self.kill()
        self.start()

    def create_bucket(self, name: str | None = None) -> str:
        """Create a bucket and return its name."""
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
        """The file in which the server keeps an object."""
        return self._buckets / bucket / key

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def free_port() -> int:
    """A loopback port on which no process listens."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def posix_backend(buckets: Path, metadata: Path) -> list[str]:
    """Server arguments to keep objects as files; ``metadata`` is used on file systems without extended attributes."""
    if _has_attributes(buckets):
        return ["posix", str(buckets)]
    metadata.mkdir(exist_ok=True)
    return ["posix", "--sidecar", str(metadata), str(buckets)]


def answers(url: str) -> bool:
    """Whether an S3 server answers at ``url``."""
    try:
        urllib.request.urlopen(url, timeout=1)
    except urllib.error.HTTPError:
        return True  # the server refuses unsigned requests, so it is up
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
    # `make prerequisites` runs this, so that a first build does not count against one test's timeout.
    try:
        print(build())
    except NoServer as missing:
        print(f"{missing}; tests that need it will be skipped")
