"""A process that only commits until it is killed: ``python committing.py <store URI>``."""

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store

STEPS = 3


def content(seed: str) -> bytes:
    """Return some 100 KB that depend on ``seed``."""
    return hashlib.sha256(seed.encode()).digest() * 3000


def main(uri: str) -> None:
    """Commit checkpoints and stages forever, continuing from what is stored, and print a line for each."""
    run = RunStore(open_store(uri))
    term = run.claim_term({"host": "test"})
    print("ready", flush=True)
    stage = 0
    while True:
        if run.stage_manifest(str(stage)) is None:
            checkpoint = run.latest_checkpoint(str(stage))
            done = int(str(checkpoint[0].meta["step"])) if checkpoint else 0
            for step in range(done + 1, STEPS + 1):
                with _files(f"{stage}/{step}") as folder:
                    run.save_checkpoint(str(stage), term=term, step=step, local=folder, keep=2, meta={})
                print("saved", flush=True)
            with _files(f"{stage}") as folder:
                run.commit_stage(str(stage), term=term, local=folder, parent=None, meta={"stage": stage})
            print("committed", flush=True)
        run.commit_document(f"evaluation/{stage}", {"filler": "x" * 20_000}, term=term, parent=None)
        stage += 1


@contextlib.contextmanager
def _files(seed: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("adapter_model.safetensors", "optimizer.safetensors"):
            Path(folder, name).write_bytes(content(seed + name))
        yield Path(folder)


if __name__ == "__main__":
    main(sys.argv[1])
