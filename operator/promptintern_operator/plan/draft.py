"""The operator's part of a status while a plan is being made."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from promptintern_api.compute import StorageSpec
from promptintern_api.status import MAX_MESSAGE, MAX_REASON, AttemptStatus, Condition, Phase, PromptInternJobStatus
from promptintern_api.training_status import TrainingStatus

from promptintern_operator.plan.attempts import fold
from promptintern_operator.plan.columns import columns
from promptintern_operator.plan.types import Action, EventRecord, Plan, StartAttempt, StartPreflight

_KEPT_ATTEMPTS = 320
"""The number of attempts that the status keeps. It exceeds the sum of the retry budgets, so that only attempts that no
budget counts are ever dropped.
"""
_KEPT_WITH_PODS = 5
_EVENT_REASON = 128
"""The largest number of characters of an Event's reason."""
_BAD_UNLESS_TRUE = ("Accepted", "QuotaReserved", "ClusterReady", "Training")
_UNTOLD = ("Ended",)
"""The reasons that get no Event, because they only follow from the end of the job or of an attempt, which gets one."""
_QUIET_REASONS = (
    *("Checking", "Starting", "Pending", "Suspended", "Ended", "Saving", "Queued", "Removing"),
    "EarlierJobDeleting",  # usually over within seconds
)


@dataclass(kw_only=True)
class StatusDraft:
    """The draft of a status, with the actions that belong to it."""

    now: datetime
    generation: int
    previous: PromptInternJobStatus
    conditions: dict[str, Condition]
    attempts: list[AttemptStatus]
    head_uid: str | None
    start_time: datetime | None
    completion_time: datetime | None
    storage: StorageSpec | None
    config_map: str | None
    check_uid: str | None
    handled_retry: str | None
    retried_after_attempt: int | None
    retried_after_check: int | None
    check_held_up_since: datetime | None = None
    """The time since which the check has been held up, or None; every draft begins with None."""
    actions: list[Action] = field(default_factory=list)
    requeue_at: datetime | None = None
    attempt_ending: str | None = None
    """The reason why the newest attempt ended, if this draft ends it, else None."""

    @classmethod
    def from_status(cls, status: PromptInternJobStatus | None, *, generation: int, now: datetime) -> "StatusDraft":
        """Start a draft from the previous status."""
        previous = status or PromptInternJobStatus()
        return cls(
            now=now,
            generation=generation,
            previous=previous,
            conditions={condition.type: condition for condition in previous.conditions},
            attempts=list(previous.attempts),
            head_uid=previous.current_head_pod_uid,
            start_time=previous.start_time,
            completion_time=previous.completion_time,
            storage=previous.storage,
            config_map=previous.config_map,
            check_uid=previous.check_uid,
            handled_retry=previous.handled_retry,
            retried_after_attempt=previous.retried_after_attempt,
            retried_after_check=previous.retried_after_check,
        )

    # Conditions

    def set_condition(self, kind: str, status: bool | None, reason: str, message: str) -> None:
        """Set condition ``kind``; status None means Unknown. The transition time changes only if the status does."""
        value = {True: "True", False: "False", None: "Unknown"}[status]
        old = next((condition for condition in self.previous.conditions if condition.type == kind), None)
        is_same = old is not None and old.status == value
        self.conditions[kind] = Condition(
            type=kind,
            status=value,
            reason=reason[:MAX_REASON],
            message=message[:MAX_MESSAGE],
            last_transition_time=old.last_transition_time if is_same and old else self.now,
            observed_generation=self.generation,
        )

    def drop_condition(self, kind: str) -> None:
        """Remove condition ``kind``."""
        self.conditions.pop(kind, None)

    def is_true(self, kind: str) -> bool:
        """Return whether condition ``kind`` is True."""
        return kind in self.conditions and self.conditions[kind].status == "True"

    def reason(self, kind: str) -> str | None:
        """Return the reason of condition ``kind``, or None if it is not set."""
        return self.conditions[kind].reason if kind in self.conditions else None

    # Attempts

    @property
    def newest_attempt(self) -> AttemptStatus | None:
        """The newest attempt, or None before the first attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def running_attempt(self) -> AttemptStatus | None:
        """The newest attempt, or None if it has ended."""
        return self.newest_attempt if self.newest_attempt and self.newest_attempt.outcome is None else None

    @property
    def counted_attempts(self) -> list[AttemptStatus]:
        """The attempts that count against the retry budgets: those after the newest requested retry."""
        return [attempt for attempt in self.attempts if attempt.number > (self.retried_after_attempt or 0)]

    def update_attempt(self, **changes: Any) -> AttemptStatus:
        """Apply ``changes`` to the newest attempt, and return the changed attempt."""
        changed = self.attempts[-1].model_copy(update=changes)
        self.attempts[-1] = changed
        return changed

    # The result

    def add_action(self, action: Action) -> None:
        """Add an action, unless the plan has it already.

        Deletions come first, so that no two RayJobs of a job run at once, and names are free when they are needed.
        """
        if action not in self.actions:
            self.actions.append(action)
        self.actions.sort(key=lambda a: isinstance(a, StartAttempt | StartPreflight))

    def postpone(self, action: Action) -> None:
        """Drop ``action`` and all actions after it from this plan."""
        del self.actions[self.actions.index(action) :]

    def is_due(self, moment: datetime) -> bool:
        """Return whether ``moment`` has come; if not, requeue the job at that time."""
        if self.now >= moment:
            return True
        self.requeue_by(moment)
        return False

    def requeue_by(self, moment: datetime) -> None:
        """Requeue the job at ``moment``, or earlier if that is already planned."""
        self.requeue_at = min(self.requeue_at, moment) if self.requeue_at else moment

    def plan(self, training: TrainingStatus | None, stages: int) -> Plan:
        """Return the finished plan.

        Args:
            training: The trainer's part of the status, for the columns of ``kubectl get``.
            stages: The number of stages of the job.
        """
        attempts = fold(self.attempts, _KEPT_ATTEMPTS, retried_after=self.retried_after_attempt or 0)
        attempts = [a.model_copy(update={"pods": []}) for a in attempts[:-_KEPT_WITH_PODS]] + attempts[
            -_KEPT_WITH_PODS:
        ]
        status = PromptInternJobStatus(
            phase=self.phase(),
            conditions=list(self.conditions.values()),
            observed_generation=self.generation,
            attempts=attempts,
            ray_job_name=self.newest_attempt.ray_job_name if self.newest_attempt else None,
            current_head_pod_uid=self.head_uid,
            check_held_up_since=self.check_held_up_since,
            start_time=self.start_time,
            completion_time=self.completion_time,
            storage=self.storage,
            config_map=self.config_map,
            check_uid=self.check_uid,
            handled_retry=self.handled_retry,
            retried_after_attempt=self.retried_after_attempt,
            retried_after_check=self.retried_after_check,
            reason=self.explaining_reason(),
            **columns(training, stages, is_finished=self.is_true("Succeeded")),
        )
        return Plan(
            status=status.to_wire(),
            actions=tuple(self.actions),
            events=tuple(self._events()),
            requeue_at=self.requeue_at,
            attempt_ending=self.attempt_ending,
        )

    def phase(self) -> Phase:
        """Return the phase of the job, derived from its conditions."""
        words: list[tuple[bool, Phase]] = [
            (self.is_true("Succeeded"), Phase.SUCCEEDED),
            (self.is_true("Failed"), Phase.FAILED),
            (self.is_true("Suspended"), Phase.SUSPENDED),
            (self.reason("Accepted") in ("Refused", "Unsupported"), Phase.REFUSED),
            (self.reason("Accepted") in ("Checking", "CheckLost"), Phase.CHECKING),
            (self.reason("Accepted") == "Queued", Phase.QUEUED),
            (self.is_true("Training"), Phase.TRAINING),
            (
                self.running_attempt is not None
                and self.reason("QuotaReserved") is not None
                and not self.is_true("QuotaReserved"),
                Phase.QUEUED,
            ),
            (self.running_attempt is not None, Phase.STARTING),
        ]
        return next((word for holds, word in words if holds), Phase.PENDING)

    def explaining_reason(self) -> str | None:
        """Return the reason of the condition that explains the phase: what holds the job up, or how it ended."""
        ended = (kind for kind in ("Failed", "Succeeded", "Suspended") if self.is_true(kind))
        waiting = (kind for kind in _BAD_UNLESS_TRUE if kind in self.conditions and not self.is_true(kind))
        return self.reason([*ended, *waiting, "Training"][0])

    def _events(self) -> list[EventRecord]:
        """Return one event for each reason of the changed conditions, as a warning if any of them needs one."""
        old = {c.type: (c.status, c.reason) for c in self.previous.conditions}
        changed = [
            c for c in self.conditions.values() if old.get(c.type) != (c.status, c.reason) and c.reason not in _UNTOLD
        ]
        records: dict[str, EventRecord] = {}
        for c in sorted(changed, key=_is_warning):
            records[c.reason] = EventRecord(
                reason=c.reason[:_EVENT_REASON], message=c.message[:1024], warning=_is_warning(c)
            )
        return list(records.values())


def _is_warning(condition: Condition) -> bool:
    if condition.type == "Failed":
        return condition.status == "True"
    return condition.type in _BAD_UNLESS_TRUE and condition.status != "True" and condition.reason not in _QUIET_REASONS
