"""Lives of a run: it is killed at random moments, started again each time, and must end with an undisturbed adapter.

    python -m tests.integration.run.lives [--kills 1000] [--jobs 2] [--results .cache/kills.jsonl]

A life is drawn from its seed: the number of its kills, and the seconds between the start of a process and its kill.
Every life is written to the file of results once it is over, so the program can be stopped and started again. Results
of another version of the trainer are left out.
"""

import argparse
import collections
import concurrent.futures
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import promptintern

from tests.integration.run.process import adapters, finish, run_folder, run_to_end, start, write_job
from tests.resumable import Results, source_version

ARMS = ("FullPrompt", "QueryOnly", "Direct")
_ANOTHER_KILL = 0.6
"""The probability that a killed life is killed again."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A process that was killed."""

    seconds: float
    """The time from the start of the process to the kill."""
    where: str
    """What the process was doing, as far as the files of the run tell."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """A run from its first process to the end of its last one."""

    seed: int
    kills: tuple[Kill, ...]
    problem: str | None
    """How the run differs from an undisturbed one, or None if it does not."""


def live(seed: int, job: Path, undisturbed: Mapping[str, bytes], *, seconds: float) -> Life:
    """Live the life of ``seed``. ``seconds`` is the time that an undisturbed run takes."""
    draw = random.Random(seed)
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory(prefix="life-") as folder:
        workdir = Path(folder)
        while not kills or draw.random() < _ANOTHER_KILL:
            moment = draw.uniform(0.0, seconds)
            process = start(job, workdir)
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < moment:
                time.sleep(min(0.001, moment))
            was_running = process.poll() is None
            process.send_signal(signal.SIGKILL)
            ended = finish(process)
            if not was_running or ended.code != -signal.SIGKILL:
                if ended.code != 0:
                    return Life(seed=seed, kills=tuple(kills), problem=f"code {ended.code}: {ended.text[-2000:]}")
                break  # the run was over before the moment came
            kills.append(Kill(seconds=round(moment, 3), where=_where(workdir)))
        ended = run_to_end(job, workdir)
        return Life(seed=seed, kills=tuple(kills), problem=_problem(ended.code, ended.text, workdir, undisturbed))


def _problem(code: int, text: str, workdir: Path, undisturbed: Mapping[str, bytes]) -> str | None:
    if code != 0:
        return f"code {code}: {text[-2000:]}"
    found = adapters(workdir)
    differ = sorted(name for name in {*found, *undisturbed} if found.get(name) != undisturbed.get(name))
    return f"other adapters: {', '.join(differ)}" if differ else None


def _where(workdir: Path) -> str:
    """Return what a killed process was doing, as far as the files of the run tell."""
    folder = run_folder(workdir)
    if folder is None:
        return "before the run"
    open_stages = [
        stage for stage in sorted(folder.glob("stages/*")) if stage.is_dir() and not (stage / "manifest.json").exists()
    ]
    if not open_stages and (folder / "stages/direct").exists():
        return "at the end of the run"
    if not open_stages:
        return "between two stages' files" if any(folder.glob("stages/*")) else "before the first stage's files"
    stage = open_stages[-1]
    checkpoints = list(stage.glob("t*/checkpoints/step-*"))
    if any(stage.glob("t*/adapter/*")):
        return "within a commit"
    if any(not (checkpoint / "manifest.json").exists() for checkpoint in checkpoints):
        return "within a checkpoint"
    return "after a checkpoint" if checkpoints else "before a checkpoint"


def main() -> int:
    """Live lives until there were enough kills; return 1 if one of them ended with a problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2, help="lives at the same time")
    parser.add_argument("--results", type=Path, default=Path(".cache/kills.jsonl"))
    options = parser.parse_args()
    results = Results(options.results, source_version(promptintern.__file__))
    lives = results.documents
    with tempfile.TemporaryDirectory(prefix="lives-") as folder:
        job = write_job(Path(folder), arms=ARMS)
        for workdir in (Path(folder, "first"), Path(folder, "undisturbed")):  # the first process starts slowly
            began = time.monotonic()
            ended = run_to_end(job, workdir)
            seconds = time.monotonic() - began
            if ended.code != 0:
                print(ended.text, file=sys.stderr)
                return 1
        undisturbed = adapters(workdir)
        lock, done = threading.Lock(), {life["seed"] for life in lives}
        seeds = (seed for seed in range(sys.maxsize) if seed not in done)

        def work() -> None:
            while True:
                with lock:
                    if _killed(lives) >= options.kills:
                        return
                    seed = next(seeds)
                life = asdict(live(seed, job, undisturbed, seconds=seconds))
                with lock:
                    results.add(life)
                    print(f"{_killed(lives)} of {options.kills} kills", flush=True)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for future in [pool.submit(work) for _ in range(options.jobs)]:
                future.result()
    return _tell(lives)


def _killed(lives: list[dict[str, Any]]) -> int:
    return sum(len(life["kills"]) for life in lives)


def _tell(lives: list[dict[str, Any]]) -> int:
    places = collections.Counter(kill["where"] for life in lives for kill in life["kills"])
    for place, count in places.most_common():
        print(f"{count:6} {place}")
    problems = [life for life in lives if life["problem"]]
    for life in problems:
        print(f"seed {life['seed']}, killed {life['kills']}: {life['problem']}", file=sys.stderr)
    print(f"{_killed(lives)} kills in {len(lives)} lives; {len(problems)} ended with a problem")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
