"""report.json: what is known of a run, verdict first."""

from typing import Any, Literal

from promptintern_api.evaluation import Metric

from promptintern.document import Document
from promptintern.report.facts import DataFacts, GateFacts, JobFacts, LossCurve, PriceFacts
from promptintern.stage_record import StageRecord, TrackRecord

Outcome = Literal["Internalized", "Inconclusive", "NotInternalized", "StoppedByGate"]


class Figure(Document):
    """A figure with its 95 % interval. ExactMatch is a share (0 to 1), BLEU goes from 0 to 100."""

    value: float
    low: float
    high: float
    method: str


class Spread(Document):
    """Tokens over the held-out rows."""

    mean: float
    p95: float


class Latency(Document):
    """How long an arm's answers take on the run's device."""

    median_seconds: float
    p95_seconds: float
    queries: int
    """That were timed one by one, for the median and the 95th percentile."""
    batched_queries_per_second: float | None = None
    batch_size: int


class ArmReport(Document):
    """One way to answer the held-out rows."""

    name: str
    description: str
    rows: int
    exact_match: Figure
    bleu: Figure | None = None
    prompt_tokens: Spread
    answer_tokens: Spread
    latency: Latency | None = None
    cost_per_thousand: float | None = None
    """Of 1,000 queries, in the job's currency; None without prices."""

    def figure(self, metric: Metric) -> Figure:
        """The arm's score in ``metric``.

        Raises:
            KeyError: if the job did not ask for it.
        """
        figure = self.bleu if metric is Metric.BLEU else self.exact_match
        if figure is None:
            raise KeyError(metric)
        return figure


class Comparison(Document):
    """Score of ``arm`` minus score of ``against`` on the same rows."""

    metric: Metric
    arm: str
    against: str
    difference: Figure
    reading: Literal["better", "worse", "undecided"]
    """What the interval says of ``arm``; undecided if it holds 0."""


class Savings(Document):
    """The result beside the full prompt."""

    prompt_tokens: float
    """Share of the prompt's tokens that is no longer sent; below 0 if there are more of them."""
    latency_ratio: float | None = None
    """FullPrompt's median time at batch 1 over the result's."""
    throughput_ratio: float | None = None
    """The result's batched queries per second over FullPrompt's."""
    cost: float | None = None
    """Share of the cost that is saved."""


class Verdict(Document):
    """Whether the query alone is enough."""

    outcome: Outcome
    headline: str
    reasons: list[str]
    """Sentences: on which figures the outcome rests."""
    metric: Metric
    max_drop: float
    """The loss that the job allows, as a share of the metric's range."""
    arm: str | None = None
    """The arm that was judged; None if no stage passed the gate."""


class Example(Document):
    """A held-out row that two arms answered differently."""

    id: str
    query: str
    expected: str
    with_full_prompt: str
    with_result: str


class Examples(Document):
    """Rows (by exact match) that the result answers right and the full prompt wrong, and the other way round."""

    gained_total: int
    lost_total: int
    gained: list[Example]
    lost: list[Example]


class Reproducibility(Document):
    """What it takes to compute the same figures again."""

    seeds: dict[str, int]
    versions: dict[str, str]
    bleu_signature: str | None = None
    interval_methods: list[str]


class Report(Document):
    """The whole report."""

    schema_version: Literal["2.0"] = "2.0"
    verdict: Verdict
    warnings: list[str]
    notes: list[str]
    metrics: list[Metric]
    """The first one decides."""
    arms: list[ArmReport]
    comparisons: list[Comparison]
    savings: Savings | None = None
    """None if no stage passed the gate."""
    stages: list[StageRecord]
    planned_stages: int
    gate: GateFacts
    direct: TrackRecord | None = None
    loss: list[LossCurve]
    examples: Examples
    job: JobFacts
    data: DataFacts
    prices: PriceFacts | None = None
    reproducibility: Reproducibility

    def arm(self, name: str) -> ArmReport | None:
        """The arm of that name, if it was run."""
        return next((arm for arm in self.arms if arm.name == name), None)


def report_to_json(report: Report) -> str:
    """report.json's text: camelCase, without what is not known."""
    return report.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"


def report_from_json(text: str | bytes) -> Report:
    """The report that ``report_to_json`` wrote.

    Raises:
        pydantic.ValidationError: if a field is missing, unknown or out of range.
    """
    return Report.model_validate_json(text)


def report_json_schema() -> dict[str, Any]:
    """JSON Schema of report.json, draft 2020-12."""
    return Report.model_json_schema(by_alias=True, mode="serialization")
