"""The figures of a job for `kubectl get`, from what the trainer reported."""

from typing import Any

from promptintern_api.training_status import Result, TrainingStatus


def columns(training: TrainingStatus | None, stages: int, *, is_finished: bool) -> dict[str, Any]:
    """Return the fields of a job's status that only repeat figures of ``training``.

    Args:
        training: What the trainer reported, if anything.
        stages: The number of stages of the job.
        is_finished: Whether the job has succeeded, so that the result counts.
    """
    if training is None or not training.stages:
        return {}
    newest = max(training.stages, key=lambda stage: stage.index)
    scores = [stage for stage in training.stages if stage.score is not None]
    scored = max(scores, key=lambda stage: stage.index, default=None)
    figures = {
        "stage": f"{newest.index + 1}/{stages}",
        "tokens": round(newest.prompt_tokens, 1),
        "score": f"{scored.score:.3f}" if scored and scored.score is not None else None,
    }
    return figures | (_of_result(training.result) if training.result is not None and is_finished else {})


def _of_result(result: Result) -> dict[str, Any]:
    figures: dict[str, Any] = {"verdict": result.verdict.value, "tokens_before": round(result.tokens_before, 1)}
    if result.tokens_after is not None:
        figures["tokens"] = round(result.tokens_after, 1)
    if result.score is not None:
        figures["score"] = f"{result.score:.3f}"
        if result.score_low is not None and result.score_high is not None:
            figures["score"] += f" [{result.score_low:.3f}, {result.score_high:.3f}]"
    return figures
