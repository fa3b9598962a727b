"""Which keys open which bucket, on a real S3 server with an account per team; `pytest -s` prints the table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import botocore.session
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.cluster.control_plane import free_port
from tests.cluster.object_store import ObjectStore, Tenant
from tests.cluster.processes import Processes
from tests.cluster.s3 import NoServer

KEY = "runs/team/job-12345678/adapter/adapter_model.safetensors"
DENIED = ("AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch")

Request = Callable[[Any, str], object]
REQUESTS: dict[str, Request] = {
    "list": lambda s3, bucket: s3.list_objects_v2(Bucket=bucket),
    "head bucket": lambda s3, bucket: s3.head_bucket(Bucket=bucket),
    "get": lambda s3, bucket: s3.get_object(Bucket=bucket, Key=KEY)["Body"].read(),
    "head": lambda s3, bucket: s3.head_object(Bucket=bucket, Key=KEY),
    "put": lambda s3, bucket: s3.put_object(Bucket=bucket, Key="another", Body=b"x"),
    "overwrite": lambda s3, bucket: s3.put_object(Bucket=bucket, Key=KEY, Body=b"x"),
    "multipart": lambda s3, bucket: s3.create_multipart_upload(Bucket=bucket, Key="large"),
    "delete": lambda s3, bucket: s3.delete_object(Bucket=bucket, Key="another"),
    "read acl": lambda s3, bucket: s3.get_bucket_acl(Bucket=bucket),
    "policy": lambda s3, bucket: s3.get_bucket_policy(Bucket=bucket),
}


@dataclass(frozen=True, kw_only=True)
class Stores:
    """A storage server and its clients."""

    clients: dict[str, Any]
    buckets: dict[str, str]
    store: ObjectStore


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """A bucket with an object for each team, and clients with each team's keys, with wrong ones and with none."""
    folder = tmp_path_factory.mktemp("s3")
    processes = Processes(folder / "processes")
    store = ObjectStore(folder / "store", processes, address="127.0.0.1", port=free_port())
    try:
        store.start()
    except NoServer as missing:
        pytest.skip(str(missing))
    try:
        teams = {team: store.create_tenant(team) for team in ("team-a", "team-b")}
        clients = {team: _client(store, tenant) for team, tenant in teams.items()}
        clients["wrong"] = _client(store, Tenant(bucket="", access_key=teams["team-a"].access_key, secret_key="x" * 40))
        clients["no keys"] = _client(store, None)
        for team, tenant in teams.items():
            clients[team].put_object(Bucket=tenant.bucket, Key=KEY, Body=team.encode())
        buckets = {team: tenant.bucket for team, tenant in teams.items()}
        yield Stores(clients=clients, buckets=buckets, store=store)
    finally:
        store.kill()


def _client(store: ObjectStore, tenant: Tenant | None) -> Any:
    keys = {"aws_access_key_id": tenant.access_key, "aws_secret_access_key": tenant.secret_key} if tenant else {}
    config = Config(
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        **({} if tenant else {"signature_version": UNSIGNED}),
    )
    return botocore.session.Session().create_client(
        "s3", endpoint_url=store.endpoint, region_name=store.region, config=config, **keys
    )


def answer(client: Any, request: Request, bucket: str) -> str:
    """Send ``request`` and return `allowed` or `denied`; any other response is an error."""
    try:
        request(client, bucket)
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in DENIED or status == 403:
            return "denied"
        if code == "NoSuchBucketPolicy":
            return "allowed"
        raise
    return "allowed"


OWN = {("team-a", "team-a"), ("team-b", "team-b")}


def test_the_matrix(stores: Stores) -> None:
    cells = {
        (who, team, what): answer(client, request, bucket)
        for who, client in stores.clients.items()
        for team, bucket in stores.buckets.items()
        for what, request in REQUESTS.items()
    }
    print(f"\n{'keys':10}{'bucket':10}" + "".join(f"{what:12}" for what in REQUESTS))
    for who in stores.clients:
        for team in stores.buckets:
            print(f"{who:10}{team:10}" + "".join(f"{cells[who, team, what]:12}" for what in REQUESTS))
    assert cells == {cell: "allowed" if cell[:2] in OWN else "denied" for cell in cells}


def test_denied_requests_changed_nothing(stores: Stores) -> None:
    for team, bucket in stores.buckets.items():
        assert (
            answer(stores.clients["team-b" if team == "team-a" else "team-a"], REQUESTS["overwrite"], bucket)
            == "denied"
        )
    assert stores.store.object_path(stores.buckets["team-a"], KEY).read_bytes() != b"team-b"
    client = stores.clients["team-b"]
    assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == [stores.buckets["team-b"]]
