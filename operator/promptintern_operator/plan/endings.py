"""Record the end of an attempt, and the end of the whole job."""

from collections.abc import Sequence

from promptintern_api.status import MAX_MESSAGE, Outcome

from promptintern_operator.plan.attempts import pause_fields
from promptintern_operator.plan.classify import Ending, last_states
from promptintern_operator.plan.draft import StatusDraft
from promptintern_operator.views import PodView

UNSUPPORTED_RUN_FORMAT = "UnsupportedRunFormat"
"""The reason for which an attempt ends if another version of the operator started it."""


def end_attempt(draft: StatusDraft, ending: Ending, pods: Sequence[PodView]) -> None:
    """Record how the running attempt ended, with the last states of its pods; ``pods`` may be empty."""
    attempt = draft.running_attempt
    assert attempt is not None
    draft.update_attempt(
        **pause_fields(attempt, draft.now),
        trained_seconds=_trained_seconds(draft),
        outcome=ending.outcome,
        message=ending.message[:MAX_MESSAGE],
        finished_at=draft.now,
        pods=last_states(pods, attempt.pods) or attempt.pods,
    )
    draft.attempt_ending = ending.reason
    if ending.outcome is not Outcome.SUSPENDED:
        draft.set_condition("Training", False, ending.reason, f"attempt {attempt.number}: {ending.message}")
    if draft.is_true("ClusterReady") or draft.reason("ClusterReady") == "Deleting":
        draft.set_condition("ClusterReady", False, "Ended", f"attempt {attempt.number} has ended")
    draft.drop_condition("QuotaReserved")


def _trained_seconds(draft: StatusDraft) -> float:
    """Return for how long the trainer of the running attempt has run, according to condition Training."""
    training = draft.conditions.get("Training")
    if training is None or training.status != "True":
        return 0.0
    return max(0.0, round((draft.now - training.last_transition_time).total_seconds(), 3))


def finish(draft: StatusDraft, *, succeeded: bool, reason: str, message: str) -> None:
    """End the job: set its completion time and its final conditions."""
    draft.completion_time = draft.now
    draft.head_uid = None
    if succeeded:
        draft.set_condition("Succeeded", True, reason, message)
    else:
        draft.set_condition("Failed", True, reason, message)
        draft.set_condition("Succeeded", False, reason, message)
    if "Training" in draft.conditions:
        draft.set_condition("Training", False, "Ended", "the job has ended")
    if "ClusterReady" in draft.conditions:
        draft.set_condition("ClusterReady", False, "Ended", "the job has ended")
    draft.drop_condition("QuotaReserved")
