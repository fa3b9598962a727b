"""What a run leaves behind, as plain figures: all that a report is built from."""

from typing import Literal, Self

from promptintern_api.contract import RUN_FORMAT
from promptintern_api.evaluation import Metric, OnGateFail
from pydantic import Field, model_validator

from promptintern.document import Document
from promptintern.stage_record import Count, Seconds, StageRecord, TrackRecord

FULL_PROMPT = "FullPrompt"
QUERY_ONLY = "QueryOnly"
DIRECT = "Direct"
BASE = "Base"
KEPT_STAGE = "KeptStage"
"""The arm of a run that a gate stopped: the last good stage's adapter, asked with that stage's own prompt."""


class HeldOutRow(Document):
    """A row that every arm answered."""

    id: str
    query: str
    accepted: list[str] = Field(min_length=1)
    """Every accepted answer, the taught one first."""


class LatencyFacts(Document):
    """How long an arm's answers took on the run's device."""

    seconds_alone: list[Seconds] = Field(min_length=1)
    """Of every timed query, answered one by one."""
    batched_seconds: Seconds
    """Of ``batched_queries`` queries together."""
    batched_queries: Count
    batch_size: Count


class ArmFacts(Document):
    """One way to answer the held-out rows. Lists go by row."""

    name: str
    predictions: list[str]
    prompt_tokens: list[Count]
    answer_tokens: list[Count]
    """Generated tokens, with the end token where there is one."""
    latency: LatencyFacts | None = None


class GateFacts(Document):
    """The check after every stage, and what came of it."""

    max_drop: float = Field(ge=0)
    """As a share of the metric's range."""
    on_fail: OnGateFail
    stopped_at: Count | None = None
    """Index of the stage that failed the gate and ended training."""
    kept: Count | None = None
    """Index of the stage whose adapter is the result; None if no stage passed."""


class DroppedRows(Document):
    """Rows that were left out, and why."""

    reason: str
    rows: Count


class SourceFacts(Document):
    """One data file."""

    uri: str
    digest: str
    """SHA-256 of its bytes."""
    rows: Count
    """That were used."""
    dropped: list[DroppedRows] = Field(default_factory=list)


class DataFacts(Document):
    """Training and held-out rows."""

    train: SourceFacts
    eval: SourceFacts


class LoraFacts(Document):
    """The adapter."""

    r: int
    alpha: float
    dropout: float
    target_modules: str


class JobFacts(Document):
    """Which job it was and how it was run."""

    name: str
    namespace: str
    run_uri: str
    model_uri: str
    model_digest: str | None = None
    dtype: str
    device: str
    workers: Count
    lora: LoraFacts
    learning_rate: float
    seeds: dict[str, int]
    settings: dict[str, str] = Field(default_factory=dict)
    """Whatever else a reader may want of the spec, by name: compressor, retriever, curve, batch size."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the trainer, of Python and of the libraries."""
    started_at: str | None = None
    finished_at: str | None = None
    """RFC 3339."""


class PriceFacts(Document):
    """What the served model costs."""

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    currency: str


class CurvePoint(Document):
    """Mean loss of the steps up to ``step`` since the point before."""

    step: Count
    loss: float
    """Mean over answer tokens, in nats."""


class LossCurve(Document):
    """The loss of one training over its steps, in at most a hundred points."""

    track: str
    """The stage's index, or ``direct``."""
    points: list[CurvePoint]


class RunFacts(Document):
    """Everything that the report says is computed from this."""

    schema_version: Literal["2.0"] = RUN_FORMAT
    job: JobFacts
    metrics: list[Metric] = Field(min_length=1)
    """The first one is the score of the gate and of the verdict."""
    max_new_tokens: Count | None = None
    """Longest generated answer."""
    rows: list[HeldOutRow] = Field(min_length=1)
    arms: list[ArmFacts]
    stages: list[StageRecord]
    """That were trained."""
    planned_stages: Count
    direct: TrackRecord | None = None
    loss: list[LossCurve] = Field(default_factory=list)
    gate: GateFacts
    data: DataFacts
    prices: PriceFacts | None = None
    warnings: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """How it was computed: that packing was off, and why."""

    @model_validator(mode="after")
    def _one_figure_a_row(self) -> Self:
        for arm in self.arms:
            for field in ("predictions", "prompt_tokens", "answer_tokens"):
                if len(getattr(arm, field)) != len(self.rows):
                    raise ValueError(
                        f"arm {arm.name}: {len(getattr(arm, field))} {field} for {len(self.rows)} held-out rows"
                    )
        if len({arm.name for arm in self.arms}) != len(self.arms):
            raise ValueError("two arms have the same name")
        if self.arm(FULL_PROMPT) is None:
            raise ValueError(f"there is no arm {FULL_PROMPT} to compare with")
        if self.gate.stopped_at is None and self.arm(QUERY_ONLY) is None:
            raise ValueError(f"there is no arm {QUERY_ONLY}, though no gate stopped the run")
        return self

    def arm(self, name: str) -> ArmFacts | None:
        """The arm of that name, if it was run."""
        return next((arm for arm in self.arms if arm.name == name), None)

    @property
    def result(self) -> ArmFacts | None:
        """What the run brought forth: QueryOnly, or the kept stage; None if no stage passed the gate."""
        return self.arm(QUERY_ONLY) or self.arm(KEPT_STAGE)


def facts_to_json(facts: RunFacts) -> str:
    """One JSON document, camelCase."""
    return facts.model_dump_json(by_alias=True, exclude_none=True, indent=1)


def facts_from_json(text: str | bytes) -> RunFacts:
    """The facts that ``facts_to_json`` wrote.

    Raises:
        pydantic.ValidationError: if a field is missing, unknown or out of range.
    """
    return RunFacts.model_validate_json(text)
