"""A job that is evaluated in seconds and trains for about a minute, and waiting until it is in the middle of that."""

from typing import Any

from tests.e2e.tenant import Team

SECONDS = 900
"""Longest time that it may take."""
EVERY = 5
"""Seconds between checkpoints."""


def short(epochs: int) -> dict[str, Any]:
    """Fields of such a job; in the middle of the ``epochs`` of its last stage something is done to it."""
    stages = ((1, 3, 1), (0.67, 2, 2), (0.33, 1, 4), (0, 0, epochs))
    return {
        "schedule": {
            "explicit": [{"templateRate": rate, "shots": shots, "epochs": each} for rate, shots, each in stages]
        },
        "data__eval__limit": 60,
        "evaluation__arms": ["FullPrompt", "QueryOnly"],
        "checkpoint__everySeconds": EVERY,
        "compute__terminationGracePeriodSeconds": 60,
    }


SHORT = short(128)


def until_training(team: Team, name: str, *, stage: int = 3, step: int = 20, attempt: int = 1) -> None:
    """Wait until the trainer says that it is in the middle of ``stage``."""

    def reached() -> bool:
        status = team.status(name)
        training = status.get("training") or {}
        stages = [each["index"] for each in training.get("stages", [])]
        done = (training.get("progress") or {}).get("step", 0)
        return len(status.get("attempts", [])) == attempt and max(stages, default=-1) >= stage and done >= step

    team.cluster.wait_for(reached, timeout=SECONDS, what=f"stage {stage} of {name}")
