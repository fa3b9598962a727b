"""`fetch` from a real S3 server, for a job in a real API server."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
from promptintern.report.build import build_report
from promptintern.storage.manifest import commit_folder
from promptintern.storage.options import S3Options
from promptintern.storage.store import Store, open_store

from tests.cluster.api_server import ApiServer
from tests.cluster.s3 import S3Server
from tests.integration.cluster_cli.conftest import Command
from tests.integration.cluster_cli.moves import set_status
from tests.unit.api.documents import small_job, with_changes
from tests.unit.report.figures import facts

WEIGHTS = b"weights" * 1000


@dataclass(frozen=True, kw_only=True)
class Place:
    """A job in the cluster, and the folder of its run on the S3 server."""

    namespace: str
    uid: str
    store: Store
    bucket: str


@pytest.fixture
def place(
    installed: ApiServer, namespace: str, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A job, and a user who trusts its S3 server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    return place_for(installed, namespace, s3_server, s3_bucket, in_spec=True)


def place_for(server: ApiServer, namespace: str, s3: S3Server, bucket: str, *, in_spec: bool) -> Place:
    storage = {"uri": f"s3://{bucket}/runs", "endpoint": s3.url}
    server.apply(with_changes(small_job(), {"spec.storage": storage} if in_spec else {}), namespace)
    job = server.get("pij", "small", namespace)
    assert job is not None
    uid = job["metadata"]["uid"]
    store = open_store(f"{storage['uri']}/{namespace}/small-{uid[:8]}", s3=S3Options(endpoint=s3.url))
    return Place(namespace=namespace, uid=uid, store=store, bucket=bucket)


def store_adapter(store: Store, folder: Path, base_model: str = "sample://formulas") -> None:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "promptintern.json").write_text(json.dumps({"base_model": base_model}))
    commit_folder(
        store,
        folder="adapter",
        local=folder,
        manifest_path="adapter/manifest.json",
        kind="adapter",
        term=1,
        parent=None,
        meta={},
    )


def store_report(store: Store) -> None:
    store.write("report/report.html", b"<html>")
    store.write("report/report.json", build_report(facts(rows=120)).model_dump_json(by_alias=True).encode())


def test_adapter_and_report_arrive_whole(command: Command, place: Place, tmp_path: Path) -> None:
    store_adapter(place.store, tmp_path / "local")
    store_report(place.store)
    ran = command("fetch", "small", tmp_path / "got")
    assert ran.code == 0, ran.err
    assert (tmp_path / "got/adapter/adapter_model.safetensors").read_bytes() == WEIGHTS
    assert (tmp_path / "got/report/report.html").read_bytes() == b"<html>"
    assert f"promptintern predict {tmp_path}/got/adapter" in ran.out
    assert f"report:  {tmp_path}/got/report/report.html" in ran.out
    assert "held-out queries" in ran.out
    # `predict` needs the manifest, so it is downloaded too.
    from promptintern.storage.manifest import read_manifest

    assert read_manifest(open_store((tmp_path / "got/adapter").as_uri()), "manifest.json") is not None
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]

    again = command("fetch", "small", tmp_path / "got")
    assert again.code == 2
    assert "is not empty" in again.err


def test_the_default_storage_that_the_job_was_accepted_with(
    command: Command, installed: ApiServer, namespace: str, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    place = place_for(installed, namespace, s3_server, s3_bucket, in_spec=False)
    store_adapter(place.store, tmp_path / "local", base_model="file:///models/llama")
    ran = command("fetch", "small", tmp_path / "got")
    assert ran.code == 2
    assert "spec.storage is not set, and the operator has not accepted the job yet" in ran.err

    storage = {"uri": f"s3://{s3_bucket}/runs", "endpoint": s3_server.url}
    set_status(installed, namespace, "small", phase="Succeeded", storage=storage)
    ran = command("fetch", "small", tmp_path / "got", "--endpoint", s3_server.url)
    assert ran.code == 0, ran.err
    assert "--base-model FOLDER" in ran.out


@pytest.mark.parametrize("words", [("fetch", "small", "got"), ("logs", "small")])
def test_nothing_is_signed_for_a_server_that_only_the_job_names(
    words: tuple[str, ...],
    command: Command,
    installed: ApiServer,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever may write jobs would otherwise receive requests that are signed with the reader's credentials."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        storage = {"uri": "s3://bucket/runs", "endpoint": endpoint}
        installed.apply(with_changes(small_job(), {"spec.storage": storage}), namespace)
        attempt = {"number": 1, "rayJobName": "small-a1", "outcome": "Succeeded"}
        set_status(installed, namespace, "small", phase="Succeeded", attempts=[attempt])
        ran = command(*words)
        assert ran.code == 2
        assert f"give --endpoint {endpoint}" in " ".join(ran.err.split())
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("endpoint", ["http://s3.nowhere.svc:9000", "http://s3.nowhere:7070"])
def test_an_endpoint_that_only_pods_know(
    endpoint: str, command: Command, place: Place, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTINTERN_STORAGE_DEADLINE_SECONDS", "1")
    store_adapter(place.store, tmp_path / "local")
    ran = command("fetch", "small", tmp_path / "got", "--endpoint", endpoint)
    assert ran.code == 1
    assert "give --endpoint http://127.0.0.1:PORT" in ran.err
    assert not (tmp_path / "got").exists()
    ran = command("fetch", "small", tmp_path / "got", "--endpoint", s3_server.url)
    assert ran.code == 0, ran.err


def test_nothing_is_there_yet(command: Command, place: Place, installed: ApiServer, tmp_path: Path) -> None:
    set_status(installed, place.namespace, "small", phase="Training", stage="2/4")
    ran = command("fetch", "small", tmp_path / "got")
    assert ran.code == 1
    assert "the job is Training, stage 2/4; fetch it after it has succeeded" in ran.err
    assert not (tmp_path / "got").exists()


def test_a_damaged_file_leaves_nothing(command: Command, place: Place, tmp_path: Path) -> None:
    store_adapter(place.store, tmp_path / "local")
    place.store.write("adapter/adapter_model.safetensors", b"other")
    ran = command("fetch", "small", tmp_path / "got")
    assert ran.code == 1
    assert "adapter_model.safetensors is not what was committed" in ran.err
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refused the credentials"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "set AWS_ACCESS_KEY_ID"),
    ],
)
def test_credentials(
    command: Command,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str | None],
    says: str,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    ran = command("fetch", "small", tmp_path / "got")
    assert ran.code == 2
    assert says in ran.err


def test_a_folder_in_use(command: Command, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = command("fetch", "small", tmp_path / "file")
    assert ran.code == 2
    assert "is a file" in ran.err
