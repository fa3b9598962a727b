"""The operator's part of a status while it is being worked out."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from promptintern_api.compute import StorageSpec
from promptintern_api.status import AttemptStatus, Condition, Phase, PromptInternJobStatus
from promptintern_api.training_status import TrainingStatus

from promptintern_operator.plan.attempts import fold
from promptintern_operator.plan.types import Action, Happening, Plan, StartAttempt

_KEPT_ATTEMPTS = 256
"""More than the budgets allow, so that only free attempts are ever folded."""
_KEPT_WITH_PODS = 5
_BAD_UNLESS_TRUE = ("Accepted", "QuotaReserved", "ClusterReady", "Training")
_QUIET_REASONS = (
    *("Checking", "Starting", "Pending", "Suspended", "Ended", "Saving", "Queued", "Removing"),
    "EarlierJobDeleting",  # it is over in a moment, as a rule
)


@dataclass(kw_only=True)
class Draft:
    """A status, and the actions that go with it."""

    now: datetime
    generation: int
    before: PromptInternJobStatus
    conditions: dict[str, Condition]
    attempts: list[AttemptStatus]
    head_uid: str | None
    start_time: datetime | None
    completion_time: datetime | None
    storage: StorageSpec | None
    check_held_up_since: datetime | None = None
    """Said anew each time, or not any more."""
    actions: list[Action] = field(default_factory=list)
    look_again: datetime | None = None

    @classmethod
    def of(cls, status: PromptInternJobStatus | None, *, generation: int, now: datetime) -> "Draft":
        """Begins with what was true before."""
        before = status or PromptInternJobStatus()
        return cls(
            now=now,
            generation=generation,
            before=before,
            conditions={condition.type: condition for condition in before.conditions},
            attempts=list(before.attempts),
            head_uid=before.current_head_pod_uid,
            start_time=before.start_time,
            completion_time=before.completion_time,
            storage=before.storage,
        )

    # Conditions

    def set(self, kind: str, status: bool | None, reason: str, message: str) -> None:
        """Say condition ``kind``; None is Unknown. The time of the last transition stays while ``status`` does."""
        word = {True: "True", False: "False", None: "Unknown"}[status]
        known = next((condition for condition in self.before.conditions if condition.type == kind), None)
        same = known is not None and known.status == word
        self.conditions[kind] = Condition(
            type=kind,
            status=word,
            reason=reason,
            message=message[:32_768],
            last_transition_time=known.last_transition_time if same and known else self.now,
            observed_generation=self.generation,
        )

    def drop(self, kind: str) -> None:
        """No longer say anything of ``kind``."""
        self.conditions.pop(kind, None)

    def is_true(self, kind: str) -> bool:
        """Whether condition ``kind`` holds."""
        return kind in self.conditions and self.conditions[kind].status == "True"

    def reason(self, kind: str) -> str | None:
        """The reason of condition ``kind``."""
        return self.conditions[kind].reason if kind in self.conditions else None

    # Attempts

    @property
    def attempt(self) -> AttemptStatus | None:
        """The newest one."""
        return self.attempts[-1] if self.attempts else None

    @property
    def running(self) -> AttemptStatus | None:
        """The newest one, unless it has ended."""
        return self.attempt if self.attempt and self.attempt.outcome is None else None

    def change_attempt(self, **changes: Any) -> AttemptStatus:
        """The newest attempt with ``changes``."""
        changed = self.attempts[-1].model_copy(update=changes)
        self.attempts[-1] = changed
        return changed

    # The result

    def do(self, action: Action) -> None:
        """Add to what is to be done. What is left over goes first, so that no two RayJobs of a job run at once."""
        self.actions.append(action)
        self.actions.sort(key=lambda each: isinstance(each, StartAttempt))

    def hold(self, action: Action) -> None:
        """Not now: neither ``action`` nor what is to be done after it."""
        del self.actions[self.actions.index(action) :]

    def has_come(self, moment: datetime) -> bool:
        """Whether ``moment`` has; if not, look again then."""
        if self.now >= moment:
            return True
        self.wake_at(moment)
        return False

    def wake_at(self, moment: datetime) -> None:
        """Look again at ``moment`` at the latest."""
        self.look_again = min(self.look_again, moment) if self.look_again else moment

    def plan(self, training: TrainingStatus | None, stages: int) -> Plan:
        """The finished plan.

        Args:
            training: What the trainer says, for the columns of ``kubectl get``.
            stages: How many the job has.
        """
        attempts = fold(self.attempts, _KEPT_ATTEMPTS)
        attempts = [a.model_copy(update={"pods": []}) for a in attempts[:-_KEPT_WITH_PODS]] + attempts[
            -_KEPT_WITH_PODS:
        ]
        status = PromptInternJobStatus(
            phase=self.phase(),
            conditions=list(self.conditions.values()),
            observed_generation=self.generation,
            attempts=attempts,
            ray_job_name=self.attempt.ray_job_name if self.attempt else None,
            current_head_pod_uid=self.head_uid,
            check_held_up_since=self.check_held_up_since,
            start_time=self.start_time,
            completion_time=self.completion_time,
            storage=self.storage,
            **_columns(training, stages),
        )
        return Plan(
            status=status.to_wire(),
            actions=tuple(self.actions),
            happenings=tuple(self._happenings()),
            look_again=self.look_again,
        )

    def phase(self) -> Phase:
        """The job in one word."""
        words: list[tuple[bool, Phase]] = [
            (self.is_true("Succeeded"), Phase.SUCCEEDED),
            (self.is_true("Failed"), Phase.FAILED),
            (self.is_true("Suspended"), Phase.SUSPENDED),
            (self.reason("Accepted") in ("Refused", "Unsupported"), Phase.REFUSED),
            (self.reason("Accepted") in ("Checking", "CheckLost"), Phase.CHECKING),
            (self.reason("Accepted") == "Queued", Phase.QUEUED),
            (self.is_true("Training"), Phase.TRAINING),
            (
                self.running is not None
                and self.reason("QuotaReserved") is not None
                and not self.is_true("QuotaReserved"),
                Phase.QUEUED,
            ),
            (self.running is not None, Phase.STARTING),
        ]
        return next((word for holds, word in words if holds), Phase.PENDING)

    def _happenings(self) -> list[Happening]:
        """One for every reason that a condition's change has; a warning if it is one for any of them."""
        known = {c.type: (c.status, c.reason) for c in self.before.conditions}
        changed = [c for c in self.conditions.values() if known.get(c.type) != (c.status, c.reason)]
        told: dict[str, Happening] = {}
        for c in sorted(changed, key=_is_warning):
            told[c.reason] = Happening(reason=c.reason, message=c.message[:1024], warning=_is_warning(c))
        return list(told.values())


def _is_warning(condition: Condition) -> bool:
    if condition.type == "Failed":
        return condition.status == "True"
    return condition.type in _BAD_UNLESS_TRUE and condition.status != "True" and condition.reason not in _QUIET_REASONS


def _columns(training: TrainingStatus | None, stages: int) -> dict[str, Any]:
    if training is None or not training.stages:
        return {}
    newest = max(training.stages, key=lambda stage: stage.index)
    scores = [stage for stage in training.stages if stage.score is not None]
    scored = max(scores, key=lambda stage: stage.index, default=None)
    return {
        "stage": f"{newest.index + 1}/{stages}",
        "tokens": round(newest.prompt_tokens, 1),
        "score": f"{scored.score:.3f}" if scored and scored.score is not None else None,
    }
