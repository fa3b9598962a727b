"""Runs or resumes a job and prints its events as JSON lines with timestamps. Arguments: ``JOB STOP_AFTER``.

The run stops after STOP_AFTER steps of the second-to-last stage, or only at its end if STOP_AFTER is 0.
"""

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from promptintern.job import load_job
from promptintern.pipeline.events import CheckpointSaved, Ending, Event, StageDone, Stepped, Stopped, Trained
from promptintern.run.driver import run_job


class Printer:
    """An observer that prints events and stops the run after a given step."""

    def __init__(self, stage: int, stop_after: int) -> None:
        self._stage = stage
        self._stop_after = stop_after
        self._stop = False

    def emit(self, event: Event) -> None:
        """Print ``event``, and request a stop if it reports the step after which the run should stop."""
        line = {"event": type(event).__name__, "at": time.time(), "stage": getattr(event, "stage", None)}
        if isinstance(event, StageDone):
            line["stage"] = event.record.index
        if isinstance(event, Stepped):
            line["step"] = event.done
        if isinstance(event, CheckpointSaved):
            line["step"] = event.step
        if isinstance(event, Trained):
            line |= {
                "name": event.name,
                "seconds": event.seconds,
                "examples": event.throughput.examples_per_second,
                "save": (event.throughput.time_shares.save if event.throughput.time_shares else 0.0) * event.seconds,
            }
        if isinstance(event, Stepped) and event.stage == self._stage and event.done == self._stop_after:
            self._stop = True
        print(json.dumps(line), flush=True)

    def stop_requested(self) -> bool:
        """Return whether the run has reached the step after which it should stop."""
        return self._stop

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Do nothing, because the ending is raised as an exception."""

    def has_ending(self) -> bool:
        """Return False, because no worker runs in another process."""
        return False

    def record_saved(self, where: str) -> bool:
        """Return False, because no worker runs in another process."""
        return False


def main() -> None:
    """Run or resume the job in the file that the command line names."""
    path, stop_after = sys.argv[1:]
    job = load_job(Path(path))
    assert job.spec.storage is not None
    observer = Printer(job.spec.schedule.stages - 2, int(stop_after))
    with contextlib.suppress(Stopped):
        run_job(job, storage_uri=job.spec.storage.uri, workers=0, observer=observer)


if __name__ == "__main__":
    main()
