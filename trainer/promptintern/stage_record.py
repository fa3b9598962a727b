"""What is recorded of a training, in one typed model.

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
    """Speed of a training so far, over all workers. Rates are per second of training time in all terms of the run."""

    examples_per_second: Rate
    tokens_per_second: Rate
    """Prompt and answer tokens, as if every row were computed alone."""
    computed_tokens_per_second: Rate | None = None
    """Tokens that went through the model, shared ones once; None until the device has reported the time of a step."""
    loss_tokens_per_second: Rate
    """Tokens with a loss."""
    mfu: Share | None = None
    """Model FLOPs utilization; None on a CPU, or on a GPU whose peak is not known."""
    time_shares: TimeShares | None = None
    """What the training time was spent on; None until the device has reported the time of a step."""


class TrackPlan(Document):
    """What a training is going to see. It is known before the first step."""

    requested_rate: float
    """Share of the template's tokens that the schedule asks for."""
    achieved_rate: float
    """Share of the template's tokens that the compressor kept."""
    shots: Count
    epochs: Count
    rows: Count
    prompt_tokens_mean: float
    """Over the training rows."""
    prompt_tokens_p95: float
    training_tokens: Count
    """Prompt and answer tokens over all epochs."""


class TrackRecord(TrackPlan):
    """A training that was committed: a stage, or the Direct arm."""

    name: str
    """Name in messages, such as ``stage 2/4``."""
    term: Count
    """The term in which a driver committed it."""
    steps: Count
    loss_first: float
    loss_last: float
    """Mean loss per answer token of the first and the last optimizer step, in nats."""
    seconds: Seconds
    """Training time without evaluation."""
    throughput: Throughput
    slow_reason: str | None = None
    """Why its rows were not computed in the model's fastest pack layout; None if they were."""
    started_at: datetime
    finished_at: datetime

    def to_meta(self) -> dict[str, Any]:
        """The record as the ``meta`` of its manifest."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any], where: str) -> Self:
        """The record in the ``meta`` of the manifest at ``where``.

        Raises:
            RunFailed: if ``meta`` is something else.
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
    """A stage that was committed, and how its adapter answered held-out rows with the stage's own prompt."""

    index: Count
    """Number of the stage, from 0."""
    metric: Metric
    """The job's first metric, in which both scores are."""
    score: float
    """On the first ``scored_rows`` held-out rows."""
    full_prompt_score: float
    """FullPrompt's score on the same rows."""
    scored_rows: Count
    gate: Literal["passed", "failed"]
