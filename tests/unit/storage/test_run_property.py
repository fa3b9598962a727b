"""Whatever processes do, in any order, and wherever they die, everything visible in a run's folder is complete."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from promptintern.storage.local import LocalBackend
from promptintern.storage.manifest import Manifest, fetch_folder, read_manifest
from promptintern.storage.retry import RetryPolicy
from promptintern.storage.run import FencedOut, RunStore
from promptintern.storage.store import Store

KEEP = 2
KEYS = ("0", "1")
NEVER = 1_000_000
# In memory, because flushing to disk would take most of the time and is not tested here.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Died(BaseException):
    """The process died."""


class Mortal(LocalBackend):
    """A backend whose process dies after a given number of further changes."""

    left = NEVER

    def _live(self) -> None:
        if self.left == 0:
            raise Died
        self.left -= 1

    def put(self, key: str, data: bytes) -> None:
        self._live()
        super().put(key, data)

    def put_file(self, local: Path, key: str) -> None:
        self._live()
        super().put_file(local, key)

    def create(self, key: str, data: bytes) -> bool:
        self._live()
        return super().create(key, data)

    def delete(self, key: str) -> None:
        # The process dies during a deletion: one file is removed, the others are not.
        if self.left == 0:
            for path in list(self.sizes(key))[:1]:
                super().delete(path)
        self._live()
        super().delete(key)


class RunFolder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=MEMORY))
        self.files = self.folder / "files"
        self.files.mkdir()
        self.backend = Mortal(self.folder / "run", RetryPolicy(deadline=0))
        self.run = RunStore(Store(self.backend))
        self.terms: list[int] = []
        self.committed: dict[str, Manifest] = {}
        self.content = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        self.claim()

    @rule()
    def claim(self) -> None:
        self.terms.append(self.run.claim_term({"host": "h"}))
        assert self.terms == list(range(1, len(self.terms) + 1))

    @rule(
        key=st.sampled_from(KEYS),
        who=st.integers(0, 9),
        step=st.integers(1, 5),
        life=st.integers(0, 6) | st.just(NEVER),
    )
    def save(self, key: str, who: int, step: int, life: int) -> None:
        term = self.terms[who % len(self.terms)]
        with self._mortal(life) as acted:
            self.run.save_checkpoint(key, term=term, step=step, local=self._new_files(), keep=KEEP, meta={})
            acted.append(term)
        assert all(term == self.terms[-1] for term in acted), "only the newest term writes"
        if acted:
            assert len(self._checkpoints(key)) <= KEEP

    @rule(key=st.sampled_from(KEYS), who=st.integers(0, 9), life=st.integers(0, 6) | st.just(NEVER))
    def commit(self, key: str, who: int, life: int) -> None:
        term = self.terms[who % len(self.terms)]
        with self._mortal(life) as acted:
            manifest = self.run.commit_stage(key, term=term, local=self._new_files(), parent=None, meta={})
            acted.append(term)
            assert key not in self.committed or manifest == self.committed[key]
        if acted:
            assert self._checkpoints(key) == []

    @invariant()
    def what_is_visible_is_whole(self) -> None:
        for path in self.run.store.list("stages"):
            if not path.endswith("manifest.json"):
                continue
            manifest = read_manifest(self.run.store, path)
            assert manifest is not None
            folder = path.removesuffix("/manifest.json")
            if manifest.kind == "stage":
                folder = f"{folder}/t{manifest.term}/adapter"
            with tempfile.TemporaryDirectory(dir=MEMORY) as copy:
                fetch_folder(self.run.store, manifest, folder=folder, local=Path(copy))

    @invariant()
    def what_is_committed_stays(self) -> None:
        for key in KEYS:
            manifest = self.run.stage_manifest(key)
            if key in self.committed:
                assert manifest == self.committed[key]
            elif manifest is not None:
                self.committed[key] = manifest

    @invariant()
    def the_latest_checkpoint_has_the_most_steps(self) -> None:
        for key in KEYS:
            latest, steps = self.run.latest_checkpoint(key), self._checkpoints(key)
            assert (latest is None) == (not steps)
            if latest:
                assert latest[0].meta["step"] == max(steps)

    def _checkpoints(self, key: str) -> list[int]:
        paths = self.run.store.list(f"stages/{key}")
        return [int(p.split("step-")[1].split("/")[0]) for p in paths if "/step-" in p and p.endswith("manifest.json")]

    def _new_files(self) -> Path:
        self.content += 1
        for name in ("weights", "state"):
            (self.files / name).write_bytes(f"{name} {self.content}".encode() * self.content)
        return self.files

    def _mortal(self, life: int) -> "Lifetime":
        return Lifetime(self.backend, life)


class Lifetime:
    """A block that may end because the process dies or is fenced out."""

    def __init__(self, backend: Mortal, life: int) -> None:
        self._backend, self._life = backend, life

    def __enter__(self) -> list[int]:
        self._backend.left = self._life
        return []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._backend.left = NEVER
        return kind is not None and issubclass(kind, Died | FencedOut)


TestRunFolder = RunFolder.TestCase
TestRunFolder.settings = settings(max_examples=10, stateful_step_count=15)
