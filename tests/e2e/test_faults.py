"""Faults while a job runs: it ends with the adapter of an undisturbed run, and no fenced driver writes anything.

`make e2e-faults` runs all of them, and `make e2e` the deletion of the head pod.
"""

import os
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.faults import HARD, HARMLESS, PLANNED, Disturbance, delete_head, wake_the_old_driver_in_a_new_attempt
from tests.e2e.project import delete_operators, operators
from tests.e2e.short_job import CHECKPOINT_SECONDS, SHORT, TIMEOUT_SECONDS, short
from tests.e2e.tenant import Team
from tests.e2e.terms import TermWatch, planned_stops, resumed_after, steps_lost
from tests.e2e.watching import JobHistory

ALL = os.environ.get("PROMPTINTERN_FAULTS") == "all"
JOB = SHORT if ALL else {**short(32), "checkpoint__everySeconds": 2}
"""Without `make e2e-faults`, the quickstart is the undisturbed job, so this one trains as long as it does."""


@pytest.fixture(scope="module")
def undisturbed(team: Team, request: pytest.FixtureRequest) -> str:
    """The name of an undisturbed job that has ended."""
    if not ALL:
        quickstart: JobHistory = request.getfixturevalue("quickstart")
        return quickstart.name
    name = team.submit(name="undisturbed", **JOB)
    team.wait(name, seconds=TIMEOUT_SECONDS)
    return name


@pytest.mark.parametrize("disturb", [delete_head] if not ALL else [*PLANNED, *HARMLESS, *HARD])
def test_the_adapter_is_the_same(team: Team, undisturbed: str, disturb: Disturbance, tmp_path: Path) -> None:
    grace = 150 if disturb is wake_the_old_driver_in_a_new_attempt else 60
    name = team.submit(
        name=disturb.__name__.replace("_", "-")[:40].rstrip("-"),
        **{**JOB, "compute__terminationGracePeriodSeconds": grace},
    )
    with TermWatch(team, name) as watch:
        team.cluster.wait_for(
            lambda: watch.has_checkpoint_of("3"), timeout=TIMEOUT_SECONDS, what="a checkpoint in the last stage"
        )
        began = time.monotonic()
        disturb(team, name)
        team.wait(name, seconds=TIMEOUT_SECONDS)
    for job in (undisturbed, name):
        assert team.condition(job, "Succeeded").get("status") == "True", team.describe(job)
    assert [attempt["outcome"] for attempt in team.status(undisturbed)["attempts"]] == ["Succeeded"]
    assert team.adapter(name, tmp_path / "disturbed") == team.adapter(undisturbed, tmp_path / "undisturbed")
    watch.check()
    log = watch.log()
    if disturb in HARD:
        checkpoint = watch.newest_checkpoint(before=began)
        # A checkpoint starts every interval, is written beside training, and is seen by a poll within a second.
        assert began - checkpoint.seen <= CHECKPOINT_SECONDS + 2, "the last checkpoint before the kill was too old"
        assert resumed_after(log)[0] >= checkpoint.step, "it resumed before its last checkpoint"
    else:
        stops = planned_stops(log)
        assert bool(stops) == (disturb in PLANNED)
        assert all(saved == resumed for saved, resumed in stops), f"it did not save before a planned stop: {stops}"
        assert steps_lost(log) == 0, "a planned or harmless disturbance must lose no step"
        outcomes = {attempt["outcome"] for attempt in team.status(name)["attempts"]}
        assert outcomes <= {"Succeeded", "Preemption", "Suspended"}, f"it cost a retry: {team.describe(name)}"


class Deletions:
    """Deletes the operator's pods every 20 s while the context is open."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: Exception | None = None
        self.uids: set[str] = set()
        """UIDs of the pods that were deleted."""

    def __enter__(self) -> "Deletions":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self.uids |= operators(self._team.cluster)
                delete_operators(self._team.cluster)
                self._stop.wait(20)
        except Exception as error:  # noqa: BLE001 -- `__exit__` raises it
            self._error = error


if ALL:

    def test_a_whole_job_while_the_operator_is_deleted_again_and_again(
        team: Team, undisturbed: str, tmp_path: Path
    ) -> None:
        with Deletions(team) as deletions:
            name = team.submit(name="operator-comes-and-goes", **JOB)
            start = time.monotonic()
            with TermWatch(team, name) as watch:
                team.wait(name, seconds=TIMEOUT_SECONDS)
            duration = time.monotonic() - start
        assert len(deletions.uids) >= duration / 30, "new operator pods did not appear between deletions"
        assert team.condition(name, "Succeeded").get("status") == "True", team.describe(name)
        assert [attempt["outcome"] for attempt in team.status(name)["attempts"]] == ["Succeeded"]
        assert team.adapter(name, tmp_path / "disturbed") == team.adapter(undisturbed, tmp_path / "undisturbed")
        watch.check()
        assert not resumed_after(watch.log())
