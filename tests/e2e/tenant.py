"""A team with a namespace, a Secret and a bucket, and what it sees of its jobs."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import s3fs
import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.object_store import Tenant as Account
from tests.e2e.project import ROOT

SECRET = "s3"
_ENDED = ("Succeeded", "Failed", "Refused")
_SECONDS_BETWEEN = 1.5
"""Of two looks at a job: each is a process, on the cores that train."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What `kubectl get pij` showed."""

    phase: str
    stage: str
    tokens: str
    score: str


def job_like(
    example: str = "quickstart",
    *,
    name: str | None = None,
    labels: Mapping[str, str] = MappingProxyType({}),
    **spec: Any,
) -> dict[str, Any]:
    """An example's job, with fields of its spec replaced: ``compute__workers`` is that of ``compute``."""
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
    def found(cls, cluster: Cluster, name: str) -> "Team":
        """A new tenant whose namespace enforces Pod Security "restricted"."""
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
        """spec.storage for the team's own bucket, with the keys of a Secret."""
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
        """`kubectl apply` of ``job_like``; returns the job's name."""
        job = job_like(example, name=name, labels=labels, **spec)
        self.cluster.kubectl("apply", "--namespace", self.namespace, "-f", "-", input=json.dumps(job))
        return str(job["metadata"]["name"])

    def patch(self, name: str, spec: Mapping[str, Any]) -> None:
        """`kubectl patch` of a job's spec."""
        patch = json.dumps({"spec": spec})
        self.cluster.kubectl("patch", "pij", name, "--namespace", self.namespace, "--type=merge", "-p", patch)

    def exec(self, pod: str, container: str, command: str) -> str:
        """What a shell command says in a container, empty if there is none any more."""
        where = ("exec", "--namespace", self.namespace, pod, "-c", container, "--")
        return self.cluster.kubectl(*where, "bash", "-c", command, check=False)

    def job(self, name: str) -> dict[str, Any]:
        """The object; an assertion if there is none."""
        found = self.cluster.get("pij", name, self.namespace)
        assert found is not None, f"job {self.namespace}/{name} is gone"
        return found

    def status(self, name: str) -> dict[str, Any]:
        """The job's status, empty before there is one."""
        return dict(self.job(name).get("status") or {})

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """A condition of the job, empty if it is not said."""
        conditions = self.status(name).get("conditions", [])
        return next((dict(each) for each in conditions if each["type"] == kind), {})

    def pods(self, name: str, role: str) -> list[dict[str, Any]]:
        """The job's pods of a role, those first that live longest."""
        selector = f"promptintern.dev/job={name},promptintern.dev/role={role}"
        found = self.cluster.list("pods", self.namespace, selector)
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def watch(self, name: str, *, seconds: float, until: tuple[str, ...] = _ENDED) -> Iterator[Row]:
        """Rows of `kubectl get pij` as they change, until the phase is one of ``until``; an assertion if that takes
        longer than ``seconds``."""
        deadline, last = time.monotonic() + seconds, None
        columns = "PHASE:.status.phase,STAGE:.status.stage,TOKENS:.status.tokens,SCORE:.status.score"
        while True:
            answer = self.cluster.kubectl(
                *("get", "pij", name, "--namespace", self.namespace, "--no-headers", "-o", f"custom-columns={columns}"),
                check=False,
            )
            fields = answer.split()
            if len(fields) == 4:
                row = Row(phase=fields[0], stage=fields[1], tokens=fields[2], score=fields[3])
                if row != last:
                    last = row
                    yield row
                if row.phase in until:
                    return
            assert time.monotonic() < deadline, f"{name} is {last} after {seconds} s: {self.told(name)}"
            time.sleep(_SECONDS_BETWEEN)

    def wait(self, name: str, *, seconds: float, until: tuple[str, ...] = _ENDED) -> list[Row]:
        """All rows until the job's phase is one of ``until``."""
        return list(self.watch(name, seconds=seconds, until=until))

    def told(self, name: str) -> str:
        """All that explains where a job stands."""
        pods = self.cluster.kubectl("get", "pods", "--namespace", self.namespace, "-o", "wide", check=False)
        return f"{json.dumps(self.status(name), indent=1)}\n{pods}"

    def run_folder(self, name: str) -> str:
        """Bucket and prefix of the job's files."""
        job = self.job(name)
        return f"{self.account.bucket}/runs/{self.namespace}/{name}-{job['metadata']['uid'][:8]}"

    @cached_property
    def files(self) -> s3fs.S3FileSystem:
        """The S3 server as this tenant sees it, without a cache of what is there."""
        return s3fs.S3FileSystem(
            key=self.account.access_key,
            secret=self.account.secret_key,
            endpoint_url=self.cluster.s3.endpoint,
            client_kwargs={"region_name": self.cluster.s3.region},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def environment(self) -> dict[str, str]:
        """What a member of the team has in the shell."""
        return {
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "AWS_ACCESS_KEY_ID": self.account.access_key,
            "AWS_SECRET_ACCESS_KEY": self.account.secret_key,
            "AWS_ENDPOINT_URL": self.cluster.s3.endpoint,
        }

    def adapter(self, name: str, folder: Path) -> bytes:
        """The bytes of the job's adapter."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "adapter_model.safetensors"
        self.files.get_file(f"{self.run_folder(name)}/adapter/adapter_model.safetensors", str(file))
        return file.read_bytes()
