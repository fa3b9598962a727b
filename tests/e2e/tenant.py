"""A team with a namespace, a Secret and a bucket, and its view of its jobs."""

import contextlib
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import s3fs
import yaml

from tests.cluster import lifecycle
from tests.cluster.cluster import Cluster
from tests.cluster.object_store import Tenant as Account
from tests.e2e import project
from tests.e2e.project import ROOT

SECRET = "s3"
ENDED = ("Succeeded", "Failed", "Refused")
"""The phases of a job that goes no further by itself."""
_POLL_SECONDS = 1.5
"""Seconds between two polls of a job: each is a process on the cores that train."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of `kubectl get pij`."""

    phase: str
    stage: str
    tokens: str
    score: str


def job_from_example(
    example: str = "quickstart",
    *,
    name: str | None = None,
    labels: Mapping[str, str] = MappingProxyType({}),
    **spec: Any,
) -> dict[str, Any]:
    """An example's job with fields of its spec replaced: ``compute__workers`` is the field ``compute.workers``."""
    job: dict[str, Any] = yaml.safe_load((ROOT / "examples" / f"{example}.yaml").read_text())
    job["metadata"]["name"] = name or job["metadata"]["name"]
    job["metadata"]["labels"] = dict(labels)
    for path, value in spec.items():
        node = job["spec"]
        *parents, leaf = path.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return job


@dataclass(kw_only=True)
class Team:
    """One tenant of the cluster."""

    cluster: Cluster
    namespace: str
    account: Account

    @classmethod
    def create(cls, cluster: Cluster, name: str) -> "Team":
        """Create a tenant whose namespace enforces the Pod Security Standard "restricted"."""
        account = cluster.s3.create_tenant(name)
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        keys = {"AWS_ACCESS_KEY_ID": account.access_key, "AWS_SECRET_ACCESS_KEY": account.secret_key}
        cluster.apply(
            [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": SECRET, "namespace": name},
                    "stringData": keys,
                },
            ]
        )
        return cls(cluster=cluster, namespace=name, account=account)

    def storage(self, secret: str = SECRET) -> dict[str, Any]:
        """The field spec.storage for the team's own bucket, with the keys of a Secret."""
        s3 = self.cluster.s3
        uri = f"s3://{self.account.bucket}/runs"
        return {"uri": uri, "endpoint": s3.endpoint, "region": s3.region, "secretRef": {"name": secret}}

    def submit(
        self,
        example: str = "quickstart",
        *,
        name: str | None = None,
        labels: Mapping[str, str] = MappingProxyType({}),
        **spec: Any,
    ) -> str:
        """Apply a job of ``job_from_example`` with kubectl, and return its name."""
        job = job_from_example(example, name=name, labels=labels, **spec)
        self.cluster.kubectl("apply", "--namespace", self.namespace, "-f", "-", input=json.dumps(job))
        return str(job["metadata"]["name"])

    def patch(self, name: str, spec: Mapping[str, Any]) -> None:
        """Patch a job's spec with kubectl."""
        patch = json.dumps({"spec": spec})
        self.cluster.kubectl("patch", "pij", name, "--namespace", self.namespace, "--type=merge", "-p", patch)

    def exec(self, pod: str, container: str, command: str) -> str:
        """Run a shell command in a container and return its output; a missing container is no error."""
        target = ("exec", "--namespace", self.namespace, pod, "-c", container, "--")
        return self.cluster.kubectl(*target, "bash", "-c", command, check=False)

    def job(self, name: str) -> dict[str, Any]:
        """The job's object, which must exist."""
        job = self.cluster.get("pij", name, self.namespace)
        assert job is not None, f"job {self.namespace}/{name} does not exist"
        return job

    def status(self, name: str) -> dict[str, Any]:
        """The job's status, or an empty dict if it has none yet."""
        return dict(self.job(name).get("status") or {})

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """A condition of the job, or an empty dict if the job does not have it."""
        conditions = self.status(name).get("conditions", [])
        return next((dict(condition) for condition in conditions if condition["type"] == kind), {})

    def pods(self, name: str, role: str) -> list[dict[str, Any]]:
        """The job's pods of a role, the oldest first."""
        selector = f"promptintern.dev/job={name},promptintern.dev/role={role}"
        pods = self.cluster.list("pods", self.namespace, selector)
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def watch(self, name: str, *, seconds: float, until: tuple[str, ...] = ENDED) -> Iterator[Row]:
        """Yield the rows of `kubectl get pij` as they change, until the phase is one of ``until``.

        Raises:
            AssertionError: if that takes longer than ``seconds``.
        """
        deadline, last = time.monotonic() + seconds, None
        columns = "PHASE:.status.phase,STAGE:.status.stage,TOKENS:.status.tokens,SCORE:.status.score"
        while True:
            output = self.cluster.kubectl(
                *("get", "pij", name, "--namespace", self.namespace, "--no-headers", "-o", f"custom-columns={columns}"),
                check=False,
            )
            fields = re.split(r"\s{2,}", output.strip())  # a score has an interval, with a space before it
            if len(fields) == 4:
                row = Row(phase=fields[0], stage=fields[1], tokens=fields[2], score=fields[3])
                if row != last:
                    last = row
                    yield row
                if row.phase in until:
                    return
            assert time.monotonic() < deadline, f"{name} is {last} after {seconds} s: {self.describe(name)}"
            time.sleep(_POLL_SECONDS)

    def wait(self, name: str, *, seconds: float, until: tuple[str, ...] = ENDED) -> list[Row]:
        """Wait until the job's phase is one of ``until``, and return all rows of ``watch``."""
        return list(self.watch(name, seconds=seconds, until=until))

    def describe(self, name: str) -> str:
        """The job's status and the team's pods, for messages of failed assertions."""
        pods = self.cluster.kubectl("get", "pods", "--namespace", self.namespace, "-o", "wide", check=False)
        return f"{json.dumps(self.status(name), indent=1)}\n{pods}"

    def run_folder(self, name: str) -> str:
        """The bucket and prefix of the job's files."""
        job = self.job(name)
        return f"{self.account.bucket}/runs/{self.namespace}/{name}-{job['metadata']['uid'][:8]}"

    @cached_property
    def files(self) -> s3fs.S3FileSystem:
        """The S3 server with this tenant's keys, without cached listings."""
        return s3fs.S3FileSystem(
            key=self.account.access_key,
            secret=self.account.secret_key,
            endpoint_url=self.cluster.s3.endpoint,
            client_kwargs={"region_name": self.cluster.s3.region},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def environment(self) -> dict[str, str]:
        """Environment variables of a team member's shell."""
        return {
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "AWS_ACCESS_KEY_ID": self.account.access_key,
            "AWS_SECRET_ACCESS_KEY": self.account.secret_key,
            "AWS_ENDPOINT_URL": self.cluster.s3.endpoint,
        }

    def adapter(self, name: str, folder: Path) -> bytes:
        """Download the job's adapter into ``folder``, and return its bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "adapter_model.safetensors"
        self.files.get_file(f"{self.run_folder(name)}/adapter/adapter_model.safetensors", str(file))
        return file.read_bytes()


@contextlib.contextmanager
def team_on_cluster(name: str) -> Iterator[Team]:
    """Start the cluster, and install the product for a team whose name begins with ``name``."""
    with lifecycle.shared("node") as cluster:
        assert isinstance(cluster, Cluster)
        project.load_images(cluster)
        team = Team.create(cluster, f"{name}-{secrets.token_hex(3)}")
        project.install(cluster, secret=SECRET, bucket=team.account.bucket)
        yield team
