"""The cluster's S3 server for many tenants, with one endpoint for the machine and for every pod."""

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
    """An account that owns one bucket and has no access to others."""

    bucket: str
    access_key: str
    secret_key: str


class ObjectStore:
    """One versitygw server with accounts, and its files in ``folder``."""

    def __init__(self, folder: Path, processes: Processes, *, address: str, port: int) -> None:
        self.folder = folder
        self.processes = processes
        self.endpoint = f"http://{address}:{port}"
        self.region = s3.REGION
        self._listen = f"{address}:{port}"

    @property
    def root(self) -> Tenant:
        """The account with all rights on all buckets (its ``bucket`` is empty)."""
        file = self.folder / "root.json"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(
                json.dumps({"access_key": "root" + secrets.token_hex(8), "secret_key": secrets.token_hex(20)})
            )
        return Tenant(bucket="", **json.loads(file.read_text()))

    def start(self) -> None:
        """Start the server, at first or after ``stop``, and wait until it answers."""
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
        """End the server; objects stay."""
        self.processes.stop(_PROCESS, seconds=5)

    def kill(self) -> None:
        """End the server at once, as a power failure would."""
        self.processes.kill(_PROCESS)

    def pause(self) -> None:
        """Pause the server: it keeps its connections and answers nothing."""
        self.processes.pause(_PROCESS)

    def resume(self) -> None:
        """Resume the server after ``pause``."""
        self.processes.resume(_PROCESS)

    def create_tenant(self, name: str) -> Tenant:
        """Create an account and its bucket ``name``, which S3 requires to have at least 3 characters."""
        tenant = Tenant(bucket=name, access_key=f"{name}-{secrets.token_hex(4)}", secret_key=secrets.token_hex(20))
        account = ["--access", tenant.access_key, "--secret", tenant.secret_key, "--role", "user"]
        self._admin("create-user", *account)
        self._admin("create-bucket", "--owner", tenant.access_key, "--bucket", name)
        return tenant

    def object_path(self, bucket: str, key: str) -> Path:
        """The file in which the server keeps an object."""
        return self.folder / "buckets" / bucket / key

    def _admin(self, *arguments: str) -> None:
        root = self.root
        identity = ["--access", root.access_key, "--secret", root.secret_key]
        argv = [str(s3.build()), "admin", *identity, "--endpoint-url", self.endpoint, *arguments]
        completed = subprocess.run(argv, capture_output=True, text=True, check=False)
        if completed.returncode != 0:
            command = ["versitygw", "admin", *arguments[:1]]
            raise CommandFailed(command, completed.returncode, completed.stderr + completed.stdout)
