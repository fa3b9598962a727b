"""The models of the record that the manifest of a training holds.

The manifest of a stage holds a ``StageRecord``; the manifest of the Direct arm holds a ``TrackRecord``. The job's
status, the report and ``promptintern prepare`` are derived from these records.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from promptintern_api.evaluation import Metric
from promptintern_api.training_status import TimeShares
from pydantic import Field, ValidationError

from promptintern.document import Document
from promptintern.errors import RunFailed

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0)]


class Throughput(Document):
    """The throughput of a training so far, over all workers and terms. The rates are per second of training time."""

    examples_per_second: Rate
    tokens_per_second: Rate
    """The number of prompt and answer tokens per second, counted as if every row were computed alone."""
    computed_tokens_per_second: Rate | None = None
    """The number of tokens per second that went through the model, with shared tokens counted once; None until the
    device has timed a step."""
    loss_tokens_per_second: Rate
    """The number of tokens per second that have a loss."""
    mfu: Share | None = None
    """The model FLOPs utilization; None on a CPU, or on a GPU whose peak is unknown."""
    time_shares: TimeShares | None = None
    """The share of the training time that each phase took; None until the device has timed a step."""


class TrackPlan(Document):
    """The figures of a training that are known before its first step."""

    requested_rate: float
    """The share of the template's tokens that the schedule asks for."""
    achieved_rate: float
    """The share of the template's tokens that the compressor kept."""
    shots: Count
    epochs: Count
    rows: Count
    prompt_tokens_mean: float
    """The mean number of prompt tokens, over the training rows."""
    prompt_tokens_p95: float
    """The 95th percentile of the number of prompt tokens, over the training rows."""
    training_tokens: Count
    """The number of prompt and answer tokens, over all epochs."""


class TrackRecord(TrackPlan):
    """The record of a committed training: a stage, or the Direct arm."""

    name: str
    """The name in messages, such as ``stage 2/4``."""
    term: Count
    """The term under which the training was committed."""
    steps: Count
    loss_first: float
    """The mean loss per answer token at the first optimizer step, in nats."""
    loss_last: float
    """The mean loss per answer token at the last optimizer step, in nats."""
    seconds: Seconds
    """The training time in seconds, without evaluation."""
    throughput: Throughput
    slow_reason: str | None = None
    """The reason why the rows were not computed in the model's fastest pack layout; None if they were."""
    started_at: datetime
    finished_at: datetime

    def to_meta(self) -> dict[str, Any]:
        """Return the record as the ``meta`` of its manifest."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any], where: str) -> Self:
        """Return the record in the ``meta`` of the manifest at ``where``.

        Raises:
            RunFailed: if ``meta`` is not a record of this kind.
        """
        try:
            return cls.model_validate(meta)
        except ValidationError as error:
            first = error.errors()[0]
            raise RunFailed(
                f"{where} contains no valid record of a training ({'.'.join(map(str, first['loc']))}: {first['msg']}); "
                "remove the file to train again"
            ) from None


class StageRecord(TrackRecord):
    """The record of a committed stage, with the score of its adapter on held-out rows."""

    index: Count
    """The index of the stage, from 0."""
    metric: Metric
    """The metric of the scores, which is the job's first metric."""
    score: float
    """The score of the stage's adapter with the stage's own prompt, on the first ``scored_rows`` held-out rows."""
    full_prompt_score: float
    """The score of FullPrompt on the first ``scored_rows`` held-out rows."""
    scored_rows: Count
    gate: Literal["passed", "failed"]
