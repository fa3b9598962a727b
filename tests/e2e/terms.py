"""Watches the storage of a run: which driver owns it, which terms write manifests, and which steps ran twice."""

import json
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from tests.e2e.tenant import Team

_TERM = re.compile(r"/terms/(\d+)\.json$")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
"""The time at the beginning of each line of a driver's log."""
_CHECKPOINT = re.compile(r"/stages/([^/]+)/t\d+/checkpoints/step-(\d+)/manifest\.json$")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of the run; ``seen`` is the monotonic time in seconds of the first poll that saw it."""

    stage: str
    step: int
    seen: float


@dataclass(frozen=True, kw_only=True)
class ObservedManifest:
    """A manifest, the term that wrote it, and the newest term at the poll before the one that saw it."""

    path: str
    term: int
    newest_term: int


class TermWatch:
    """Polls a run's folder every second while the context is open."""

    def __init__(self, team: Team, name: str) -> None:
        self._team = team
        self._folder = team.run_folder(name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._watched_until_exit = False
        self._seen_paths: set[str] = set()
        self.term_files: dict[int, set[bytes]] = {}
        """The contents of each term's file, over all polls."""
        self.manifests: list[ObservedManifest] = []
        self.checkpoints: list[Checkpoint] = []

    def __enter__(self) -> "TermWatch":
        self._poll()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watched_until_exit = self._thread.is_alive()
        self._stop.set()
        self._thread.join()
        self._poll()

    @property
    def newest_term(self) -> int:
        """The newest term, which owns the run."""
        return max(self.term_files, default=0)

    def check(self) -> None:
        """Check that one driver owned the run at each poll, and that no other driver wrote manifests."""
        assert self._watched_until_exit
        assert sorted(self.term_files) == list(range(1, self.newest_term + 1)), "terms are not consecutive"
        assert all(len(contents) == 1 for contents in self.term_files.values()), (
            f"two drivers claimed the same term: {self.term_files}"
        )
        assert self.manifests
        late = [manifest for manifest in self.manifests if manifest.term < manifest.newest_term]
        assert not late, "a term wrote manifests after a newer one had fenced it"

    def has_checkpoint_of(self, stage: str) -> bool:
        """Whether a checkpoint of the stage was seen."""
        return any(checkpoint.stage == stage for checkpoint in self.checkpoints)

    def newest_checkpoint(self, *, before: float) -> Checkpoint:
        """The last checkpoint that was seen before ``before``, in seconds of ``time.monotonic``."""
        return max(
            (checkpoint for checkpoint in self.checkpoints if checkpoint.seen <= before),
            key=lambda checkpoint: checkpoint.seen,
        )

    def log(self) -> str:
        """The logs of all drivers of the run, in the order in which the drivers started."""
        files = self._team.files
        logs = [files.cat(path) for path in files.find(f"{self._folder}/logs") if "job-driver-" in path]
        return join_in_order([log.decode() for log in logs])

    def _watch(self) -> None:
        while not self._stop.wait(1):
            self._poll()

    def _poll(self) -> None:
        newest_term = self.newest_term
        try:
            files = self._team.files
            for path in files.find(self._folder):
                if match := _TERM.search(path):
                    self.term_files.setdefault(int(match[1]), set()).add(files.cat(path))
                elif path.endswith("/manifest.json") and path not in self._seen_paths:
                    self._record(path, int(json.loads(files.cat(path))["term"]), newest_term)
        except (OSError, ValueError, BotoCoreError, ClientError):
            pass  # the storage is stopped, or a checkpoint was removed during the poll

    def _record(self, path: str, term: int, newest_term: int) -> None:
        self._seen_paths.add(path)
        # The newest term is from the poll before: a manifest may be older than a term that was claimed since then.
        self.manifests.append(ObservedManifest(path=path, term=term, newest_term=newest_term))
        if match := _CHECKPOINT.search(path):
            self.checkpoints.append(Checkpoint(stage=match[1], step=int(match[2]), seen=time.monotonic()))


def join_in_order(logs: Iterable[str]) -> str:
    """Join drivers' logs in the order of their first timestamps, because their file names are random.

    Logs without a timestamp are left out: their drivers printed nothing.
    """
    started = [(stamp[0], log) for log in logs if (stamp := _TIMESTAMP.search(log))]
    return "".join(log for _, log in sorted(started))


def resumed_after(log: str) -> list[int]:
    """The steps after which drivers resumed in the middle of a stage, in order."""
    return [resumed for _, resumed in planned_stops(log)]


def planned_stops(log: str) -> list[tuple[int | None, int]]:
    """The step at which a run was saved before it stopped, and the step after which it resumed, for each resumption.

    Only resumptions in the middle of a stage count. The first step is None if the run stopped without saving.
    """
    stops: list[tuple[int | None, int]] = []
    saved: int | None = None
    for line in log.splitlines():
        if match := re.search(r"saved at .*, step (\d+) of", line):
            saved = int(match[1])
        elif "continues after step " in line:
            stops.append((saved, int(line.rsplit(" ", 1)[1])))
            saved = None
    return stops


def steps_lost(log: str) -> int:
    """The number of steps that ran twice: the steps logged before each stop, minus the step after which it resumed."""
    done = lost = 0
    for line in log.splitlines():
        if "continues after step " in line:
            resumed = int(line.rsplit(" ", 1)[1])
            lost += max(0, done - resumed)
            done = resumed
        elif match := re.search(r": step (\d+)/|saved at .*, step (\d+) of", line):
            done = int(match[1] or match[2])
    return lost
