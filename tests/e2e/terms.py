"""Who owns a run, who commits to it, and what is done twice: looked at every second, in the storage itself."""

import json
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from tests.e2e.tenant import Team

_TERM = re.compile(r"/terms/(\d+)\.json$")
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")
"""As Ray begins its lines, when a driver connects to it."""
_CHECKPOINT = re.compile(r"/stages/([^/]+)/t\d+/checkpoints/step-(\d+)/manifest\.json$")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of the run, and when it was first seen."""

    stage: str
    step: int
    seen: float


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A manifest, the term that made it, and the newest term that was known before it was looked for."""

    path: str
    term: int
    newest: int


class TermWatch:
    """Looks at a run's folder every second while the context is open."""

    def __init__(self, team: Team, name: str) -> None:
        self._team = team
        self._folder = team.run_folder(name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._watched_to_the_end = False
        self._known: set[str] = set()
        self.owners: dict[int, set[bytes]] = {}
        """What each term's claim said, at any look."""
        self.commits: list[Commit] = []
        self.checkpoints: list[Checkpoint] = []

    def __enter__(self) -> "TermWatch":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watched_to_the_end = self._thread.is_alive()
        self._stop.set()
        self._thread.join()
        self._look()

    @property
    def newest(self) -> int:
        """The term that owns the run."""
        return max(self.owners, default=0)

    def check(self) -> None:
        """At every look one driver owned the run, and no manifest came from one that did not."""
        assert self._watched_to_the_end
        assert sorted(self.owners) == list(range(1, self.newest + 1)), "every claim follows the one before"
        assert all(len(said) == 1 for said in self.owners.values()), f"two drivers had one term: {self.owners}"
        assert self.commits
        late = [commit for commit in self.commits if commit.term < commit.newest]
        assert not late, "committed by a term that was fenced already"

    def has_checkpoint_of(self, stage: str) -> bool:
        """Whether a checkpoint of the stage was seen."""
        return any(each.stage == stage for each in self.checkpoints)

    def newest_checkpoint(self, *, before: float) -> Checkpoint:
        """The last checkpoint that was seen before a moment of ``time.monotonic``."""
        return max((each for each in self.checkpoints if each.seen <= before), key=lambda each: each.seen)

    def log(self) -> str:
        """What all drivers of the run said, in the order in which they began."""
        files = self._team.files
        logs = [files.cat(path) for path in files.find(f"{self._folder}/logs") if "job-driver-" in path]
        return in_order([log.decode() for log in logs])

    def _watch(self) -> None:
        while not self._stop.wait(1):
            self._look()

    def _look(self) -> None:
        newest = self.newest
        try:
            files = self._team.files
            for path in files.find(self._folder):
                if claim := _TERM.search(path):
                    self.owners.setdefault(int(claim[1]), set()).add(files.cat(path))
                elif path.endswith("/manifest.json") and path not in self._known:
                    self._note(path, int(json.loads(files.cat(path))["term"]), newest)
        except (OSError, ValueError, BotoCoreError, ClientError):
            pass  # the storage is stopped, or a checkpoint was removed meanwhile

    def _note(self, path: str, term: int, newest: int) -> None:
        self._known.add(path)
        # One that was committed before this look may be older than a term that was claimed since.
        self.commits.append(Commit(path=path, term=term, newest=newest))
        if found := _CHECKPOINT.search(path):
            self.checkpoints.append(Checkpoint(stage=found[1], step=int(found[2]), seen=time.monotonic()))


def in_order(logs: Iterable[str]) -> str:
    """Logs of drivers one after another; those of one RayJob have random names. Without a stamp, nothing ran."""
    began = [(stamp[0], log) for log in logs if (stamp := _STAMP.search(log))]
    return "".join(log for _, log in sorted(began))


def resumed_after(log: str) -> list[int]:
    """The steps after which drivers continued in the middle of a stage, in order."""
    return [resumed for _, resumed in planned_stops(log)]


def planned_stops(log: str) -> list[tuple[int | None, int]]:
    """After which step a run that was asked to stop said that it saved, and after which one it continued, for every
    time that it continued in the middle of a stage; None if nobody said so since the last time.
    """
    stops: list[tuple[int | None, int]] = []
    saved: int | None = None
    for line in log.splitlines():
        if said := re.search(r"saved at .*, step (\d+) of", line):
            saved = int(said[1])
        elif "continues after step " in line:
            stops.append((saved, int(line.rsplit(" ", 1)[1])))
            saved = None
    return stops


def steps_lost(log: str) -> int:
    """Steps that were done twice: where drivers continued, against what they said they had done, now and then."""
    done = lost = 0
    for line in log.splitlines():
        if "continues after step " in line:
            resumed = int(line.rsplit(" ", 1)[1])
            lost += max(0, done - resumed)
            done = resumed
        elif said := re.search(r": step (\d+)/|saved at .*, step (\d+) of", line):
            done = int(said[1] or said[2])
    return lost
