"""The models of the records that the manifests of stages and of the Direct arm hold.

The manifest of a stage holds a ``StageRecord``; the manifest of the Direct arm holds a ``TrackRecord``. The job's
status, the report and ``promptintern prepare`` are derived from these records.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from promptintern_api.metrics import Metric
from promptintern_api.training_status import TimeShares
from pydantic import Field, ValidationError

from promptintern.document import Document
from promptintern.errors import RunFailed

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0)]


class Throughput(Document):
    """The training throughput of a stage or of the Direct arm so far, over all workers and terms.

    Seconds are seconds of training time, without evaluation."""

    examples_per_second: Rate
    tokens_per_second: Rate
    """The number of prompt and answer tokens per second, counted as if every row were computed alone."""
    computed_tokens_per_second: Rate | None = None
    """The number of tokens per second that the model computed. Tokens that rows of a step share count once. None until
    the device has timed an optimizer step."""
    loss_tokens_per_second: Rate
    """The number of answer tokens per second. Only answer tokens have a loss."""
    mfu: Share | None = None
    """The model FLOPs utilization; None on a CPU, or on a GPU whose peak FLOP/s is unknown."""
    time_shares: TimeShares | None = None
    """The share of the steps' time that each activity of a step took; None until the device has timed a step."""


class TrackPlan(Document):
    """The figures of a stage or of the Direct arm that are known before its first optimizer step."""

    requested_rate: float
    """The share of the template's tokens that the compressor should keep according to the schedule."""
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
    """The number of prompt and answer tokens of all training rows, over all epochs."""


class TrackRecord(TrackPlan):
    """The record of a stage or of the Direct arm, which its manifest holds once it is committed."""

    name: str
    """The name of the stage or of the Direct arm in messages, such as ``stage 2/4``."""
    term: Count
    """The term of the driver whose workers committed the record."""
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
        """Return the record in the form in which the field ``meta`` of a manifest holds it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any], where: str) -> Self:
        """Return the record in ``meta``, which is the field ``meta`` of the manifest at ``where``.

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
    position: Count | None = None
    """The position of the stage in an adaptive schedule; None if the schedule is not adaptive."""
    accepted: bool | None = None
    """Whether an adaptive schedule went on from the stage, and not from an earlier one; None if it is not adaptive."""
    teacher: str | None = None
    """The model that taught the stage, such as ``base model`` or ``stage 1``; None if the stage had no teacher."""
    metric: Metric
    """The metric of ``score`` and ``full_prompt_score``, which is the job's first metric."""
    score: float
    """The score of the stage's adapter with the stage's own prompt, on the first ``scored_rows`` held-out rows."""
    full_prompt_score: float
    """The score of FullPrompt on the first ``scored_rows`` held-out rows."""
    scored_rows: Count
    gate: Literal["passed", "failed"]

    @property
    def planned(self) -> int:
        """The index of the stage's rate, shots and template among those that the schedule has."""
        return self.index if self.position is None else self.position
