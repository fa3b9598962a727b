"""The record of a training, as one typed model.

A stage's manifest holds a ``StageRecord``, and the Direct arm's a ``TrackRecord``. The job's status, the report and
``promptintern prepare`` are derived from these records.
"""

import json
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
    """The throughput of a training so far, over all workers. Rates are per second of training time in all terms."""

    examples_per_second: Rate
    tokens_per_second: Rate
    """Prompt and answer tokens, as if every row were computed alone."""
    computed_tokens_per_second: Rate | None = None
    """Tokens that went through the model, where shared tokens count once; None until the device has timed a step."""
    loss_tokens_per_second: Rate
    """Tokens that have a loss."""
    mfu: Share | None = None
    """Model FLOPs utilization; None on a CPU, or on a GPU whose peak is not known."""
    time_shares: TimeShares | None = None
    """Shares of the training time by phase; None until the device has timed a step."""


class TrackPlan(Document):
    """The data of a training, which is known before the first step."""

    requested_rate: float
    """Share of the template's tokens that the schedule asks for."""
    achieved_rate: float
    """Share of the template's tokens that the compressor kept."""
    shots: Count
    epochs: Count
    rows: Count
    prompt_tokens_mean: float
    """Mean over the training rows, as is the percentile below."""
    prompt_tokens_p95: float
    training_tokens: Count
    """Prompt and answer tokens over all epochs."""


class TrackRecord(TrackPlan):
    """A committed training: a stage, or the Direct arm."""

    name: str
    """Name in messages, such as ``stage 2/4``."""
    term: Count
    """The term under which it was committed."""
    steps: Count
    loss_first: float
    loss_last: float
    """Mean loss per answer token of the first and the last optimizer step, in nats."""
    seconds: Seconds
    """Training time in seconds, without evaluation."""
    throughput: Throughput
    slow_reason: str | None = None
    """Why its rows were not computed in the model's fastest pack layout; None if they were."""
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
            return cls.model_validate_json(json.dumps(meta))
        except ValidationError as error:
            first = error.errors()[0]
            raise RunFailed(
                f"{where} contains no valid record of a training ({'.'.join(map(str, first['loc']))}: {first['msg']}); "
                "remove the file to train again"
            ) from None


class StageRecord(TrackRecord):
    """A committed stage, and how well its adapter answered held-out rows with the stage's own prompt."""

    index: Count
    """Index of the stage, from 0."""
    metric: Metric
    """The job's first metric, which both scores are measured in."""
    score: float
    """Score on the first ``scored_rows`` held-out rows."""
    full_prompt_score: float
    """Score of FullPrompt on the same rows."""
    scored_rows: Count
    gate: Literal["passed", "failed"]
