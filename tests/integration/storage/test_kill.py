"""A committing process is killed at random moments: everything visible is complete, and the next process continues."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from promptintern.storage.manifest import fetch_folder, read_manifest
from promptintern.storage.options import S3Options
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store

from tests.cluster.s3 import S3Server
from tests.integration.storage.committing import content

PROGRAM = Path(__file__).with_name("committing.py")


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_killed_at_random_moments(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    environment = dict(os.environ)
    options = S3Options()
    uri = (tmp_path / "run").as_uri()
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        environment |= {**server.environment, "AWS_ENDPOINT_URL": server.url}
        options = S3Options(endpoint=server.url)
        uri = f"s3://{request.getfixturevalue('s3_bucket')}/run"
    run = RunStore(open_store(uri, s3=options))
    moments = random.Random(20)
    committed = 0
    kills = 10 if kind == "file" else 5  # an S3 client takes seconds to start
    for kill in range(1, kills + 1):
        process = subprocess.Popen([sys.executable, str(PROGRAM), uri], env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        # First wait for events, so that a slow machine gets as far, and then for a random time between two events.
        for _ in range(moments.randint(1, 5)):
            assert process.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.06))
        process.kill()
        process.wait()
        process.stdout.close()
        assert run.newest_term() == kill
        stages = _check(run, tmp_path / f"copy-{kill}")
        assert stages >= committed, "a commit was lost"
        committed = stages
        for stage in range(committed):
            document = run.committed_document(f"evaluation/{stage}", parent=None)
            assert document is None or len(document["filler"]) == 20_000
    assert committed >= 1


def _check(run: RunStore, local: Path) -> int:
    """Check that every visible manifest is valid and complete, and return the number of committed stages."""
    store, stages = run.store, 0
    for path in store.list("stages"):
        if not path.endswith("manifest.json"):
            continue
        manifest = read_manifest(store, path)
        assert manifest is not None
        folder = path.removesuffix("/manifest.json")
        key = path.split("/")[1]
        if manifest.kind == "stage":
            stages += 1
            folder, seed = f"{folder}/t{manifest.term}/adapter", key
        else:
            seed = f"{key}/{manifest.meta['step']}"
        fetch_folder(store, manifest, folder=folder, local=local / folder)
        for name in manifest.files:
            assert (local / folder / name).read_bytes() == content(seed + name)
        assert len(manifest.files) == 2
    return stages
