"""How the driver knows that a run makes progress, and that a worker lives and will save."""

import traceback

import pytest
from promptintern.errors import Problem, RunFailed, UserError
from promptintern.pipeline.events import CheckpointSaved, Note, ShardStored, StageDone
from promptintern.run import ray_observer
from promptintern.run.ray_observer import FailureNotes, Mailbox
from promptintern.run.worker import PodLeaving
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from tests.unit.report.figures import stage


def done(index: int) -> StageDone:
    return StageDone(record=stage(index))


def saved(stage: int | None, step: int, term: int = 1) -> CheckpointSaved:
    return CheckpointSaved(stage=stage, step=step, folder=f"stages/{stage}/t{term}/checkpoints/step-{step}")


def test_stages_that_were_committed_before_are_no_progress() -> None:
    """Workers that restart report all of them."""
    mailbox = Mailbox()
    mailbox.put(done(0))
    before = mailbox.progress_count()
    mailbox.put(done(0))
    assert mailbox.progress_count() == before
    mailbox.put(done(1))
    assert mailbox.progress_count() == before + 1


@pytest.mark.parametrize("stage", [1, None])
def test_a_checkpoint_is_progress_if_it_is_further_than_any_before(stage: int | None) -> None:
    mailbox = Mailbox()
    counts = []
    for event in (saved(stage, 5), saved(stage, 5, term=2), saved(stage, 3, term=3), saved(stage, 6, term=3)):
        mailbox.put(event)
        counts.append(mailbox.progress_count())
    assert counts == [1, 1, 1, 2]


def test_a_shard_of_the_teacher_is_progress_once() -> None:
    mailbox = Mailbox()
    counts = []
    for event in (
        ShardStored(teacher="base", number=0),
        ShardStored(teacher="base", number=0),
        ShardStored(teacher="base", number=1),
        saved(None, 1),
    ):
        mailbox.put(event)
        counts.append(mailbox.progress_count())
    assert counts == [1, 1, 2, 3]


def test_a_restart_in_another_pod_counts_as_progress() -> None:
    mailbox = Mailbox()
    mailbox.set_saved("stage 1/3, step 5 of 9")
    mailbox.set_saved("stage 1/3, step 5 of 9")
    assert mailbox.progress_count() == 2


class Actor:
    """Stands for the handle of a mailbox."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.put = self
        self.remote = mailbox.put


def notes_of(*errors: Exception) -> list[str]:
    """Return the warnings that the driver gets if workers fail with ``errors``."""
    mailbox = Mailbox()
    FailureNotes(Actor(mailbox)).after_exception(None, dict(enumerate(errors)))
    return [event.text for event in mailbox.take() if isinstance(event, Note) and event.warning]


def raised(error: Exception) -> Exception:
    """Return what Ray Train makes of an error that a worker raised."""
    return UserExceptionWithTraceback(error, "".join(traceback.format_exception(error)))


def test_the_driver_is_told_how_a_worker_failed() -> None:
    first, second = notes_of(
        raised(ZeroDivisionError("a defect")), WorkerHealthCheckFailedError("rank 1 is gone", RuntimeError("killed"))
    )
    assert first.startswith("worker 0 failed: ") and first.endswith("ZeroDivisionError: a defect")
    assert second.startswith("worker 1 failed: ") and "rank 1 is gone" in second


@pytest.mark.parametrize(
    "error",
    [
        UserError([Problem(where="spec.x", message="is wrong"), Problem(where="spec.y", message="is wrong")]),
        RunFailed("the loss is not finite"),
        PodLeaving("stage 1/3, step 5 of 9"),
    ],
)
def test_what_the_driver_reports_at_the_end_is_no_warning_before(error: Exception) -> None:
    assert notes_of(raised(error)) == []


def test_a_restart_in_another_pod_is_noted_for_the_driver() -> None:
    mailbox = Mailbox()
    mailbox.set_saved("stage 1/3, step 5 of 9")
    (note,) = mailbox.take()
    assert isinstance(note, Note)
    assert "saved at stage 1/3, step 5 of 9" in note.text


def test_workers_that_poll_are_in_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(ray_observer.time, "monotonic", lambda: now[0])
    mailbox = Mailbox()
    now[0] = 50.0
    assert mailbox.seconds_since_contact() == 50
    mailbox.stop_requested()
    now[0] = 70.0
    assert mailbox.seconds_since_contact() == 20
