"""The cluster's S3 server: for many tenants, and on the bridge: one endpoint for the machine and for every pod."""

import json
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import s3
from tests.cluster.client import wait_for
from tests.cluster.errors import CommandFailed
from tests.cluster.processes import Processes

_PROCESS = "s3"
_START_SECONDS = 90


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """An account that owns one bucket and may reach no other."""

    bucket: str
    access_key: str
    secret_key: str


class ObjectStore:
    """One versitygw below ``folder``, with accounts."""

    def __init__(self, folder: Path, processes: Processes, *, address: str, port: int) -> None:
        self.folder = folder
        self.processes = processes
        self.endpoint = f"http://{address}:{port}"
        self.region = s3.REGION
        self._listen = f"{address}:{port}"

    @property
    def root(self) -> Tenant:
        """The account that may do all, over all buckets (its ``bucket`` is empty)."""
        file = self.folder / "root.json"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(
                json.dumps({"access_key": "root" + secrets.token_hex(8), "secret_key": secrets.token_hex(20)})
            )
        return Tenant(bucket="", **json.loads(file.read_text()))

    def start(self) -> None:
        """Start it, also after ``stop``, and wait until it answers."""
        root, accounts, buckets = self.root, self.folder / "accounts", self.folder / "buckets"
        accounts.mkdir(exist_ok=True)
        buckets.mkdir(exist_ok=True)
        environment = {"ROOT_ACCESS_KEY_ID": root.access_key, "ROOT_SECRET_ACCESS_KEY": root.secret_key}
        serve = ["--port", self._listen, "--region", self.region, "--quiet", "--iam-dir", str(accounts)]
        argv = [str(s3.build()), *serve, *s3.posix_backend(buckets, self.folder / "metadata")]
        self.processes.start(_PROCESS, argv, env=environment)
        what = f"the S3 server at {self.endpoint}; its log: {self.processes.log(_PROCESS)}"
        wait_for(lambda: s3.answers(self.endpoint), _START_SECONDS, what)

    def stop(self) -> None:
        """End it; objects stay."""
        self.processes.stop(_PROCESS, seconds=5)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.processes.kill(_PROCESS)

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        self.processes.pause(_PROCESS)

    def resume(self) -> None:
        """After ``pause``."""
        self.processes.resume(_PROCESS)

    def create_tenant(self, name: str) -> Tenant:
        """An account and its bucket, named after ``name`` (at least 3 letters, as S3 wants it)."""
        tenant = Tenant(bucket=name, access_key=f"{name}-{secrets.token_hex(4)}", secret_key=secrets.token_hex(20))
        account = ["--access", tenant.access_key, "--secret", tenant.secret_key, "--role", "user"]
        self._admin("create-user", *account)
        self._admin("create-bucket", "--owner", tenant.access_key, "--bucket", name)
        return tenant

    def object_path(self, bucket: str, key: str) -> Path:
        """Where the server keeps an object's bytes."""
        return self.folder / "buckets" / bucket / key

    def _admin(self, *arguments: str) -> None:
        root = self.root
        identity = ["--access", root.access_key, "--secret", root.secret_key]
        argv = [str(s3.build()), "admin", *identity, "--endpoint-url", self.endpoint, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandFailed(["versitygw", "admin", *arguments[:1]], done.returncode, done.stderr + done.stdout)
