"""A job that is evaluated in seconds and trains for about a minute, and waiting for a step of its training."""

from typing import Any

from tests.e2e.tenant import Team

TIMEOUT_SECONDS = 900
"""Seconds within which the job must end."""
CHECKPOINT_SECONDS = 5
"""Seconds between checkpoints."""


def short(epochs: int) -> dict[str, Any]:
    """Fields of a short job, whose last stage has ``epochs`` epochs, in the middle of which a test disturbs it."""
    stages = ((1, 3, 1), (0.67, 2, 2), (0.33, 1, 4), (0, 0, epochs))
    return {
        "schedule": {
            "explicit": [{"templateRate": rate, "shots": shots, "epochs": count} for rate, shots, count in stages]
        },
        "data__eval__limit": 60,
        "evaluation__arms": ["FullPrompt", "QueryOnly"],
        "checkpoint__everySeconds": CHECKPOINT_SECONDS,
        "compute__terminationGracePeriodSeconds": 60,
    }


SHORT = short(128)


def wait_until_training(team: Team, name: str, *, stage: int = 3, step: int = 20, attempt: int = 1) -> None:
    """Wait until the trainer has reported ``step`` of ``stage``."""

    def is_reached() -> bool:
        status = team.status(name)
        training = status.get("training") or {}
        stages = [stage["index"] for stage in training.get("stages", [])]
        done = (training.get("progress") or {}).get("step", 0)
        return len(status.get("attempts", [])) == attempt and max(stages, default=-1) >= stage and done >= step

    team.cluster.wait_for(is_reached, timeout=TIMEOUT_SECONDS, what=f"stage {stage} of {name}")
