"""The models of report.json, which holds the report of a run. `build.py` computes the report from `facts.RunFacts`."""

from typing import Any, Literal

from promptintern_api.evaluation import Reference
from promptintern_api.metrics import Metric, Normalizer
from promptintern_api.training_status import VerdictOutcome
from pydantic import Field

from promptintern.document import Document
from promptintern.report.facts import (
    DataFacts,
    GateFacts,
    JobFacts,
    LossCurve,
    PriceFacts,
    RetentionFacts,
    TeacherFacts,
)
from promptintern.sandbox.verdict import Verdict as ProgramVerdict
from promptintern.stage_record import StageRecord, TrackRecord


class Figure(Document):
    """A score, or a difference of two scores, with its 95 % interval.

    A score is a share from 0 to 1 if ``Metric.is_share``, and otherwise a number from 0 to 100.
    """

    value: float
    low: float
    high: float
    method: str


class Spread(Document):
    """The mean and the 95th percentile of the number of prompt or answer tokens, over the held-out rows."""

    mean: float
    p95: float


class Latency(Document):
    """The time that an arm's answers take on the run's device."""

    median_seconds: float
    p95_seconds: float
    queries: int
    """The number of queries that were timed one by one, from which the median and the 95th percentile are computed."""
    batched_queries_per_second: float | None = None
    batch_size: int


class ArmReport(Document):
    """The figures of an arm, which is one way to answer the held-out rows."""

    name: str
    description: str
    rows: int
    scores: dict[Metric, Figure]
    """The score of the arm in each metric of the job."""
    programs: dict[ProgramVerdict, int] | None = None
    """The number of answers by how their programs ended; None if the job runs no programs."""
    prompt_tokens: Spread
    answer_tokens: Spread
    latency: Latency | None = None
    cost_per_thousand: float | None = None
    """The cost of 1,000 queries in the job's currency; None if the job has no prices."""
    shared_tokens: int = 0
    """The number of tokens with which all prompts of the arm begin, and which a server may keep between requests."""
    computed_tokens: float
    """The mean number of prompt tokens that are computed for a query if the server keeps the shared ones."""
    kept_latency: Latency | None = None
    """The time of answers on the run's device if the shared tokens have been computed before."""
    kept_cost_per_thousand: float | None = None
    """The cost of 1,000 queries if the server keeps the shared tokens; None if the job has no prices."""

    def figure(self, metric: Metric) -> Figure:
        """Return the score of the arm in ``metric``.

        Raises:
            KeyError: if the job does not have this metric.
        """
        return self.scores[metric]


class PassAtKReport(Document):
    """Estimates of pass@k from draws."""

    samples: int
    temperature: float
    arms: dict[str, dict[int, Figure]]
    """The estimate for each k, by arm."""


class Comparison(Document):
    """The score of ``arm`` minus the score of ``against``, on the same rows."""

    metric: Metric
    arm: str
    against: str
    difference: Figure
    p_value: float
    """The p-value, two-sided: of McNemar's exact test for shares, and otherwise of approximate randomization."""
    corrected_p_value: float
    """The p-value after Holm's correction for the number of comparisons in this metric."""
    smallest_difference: float
    """The smallest difference that so many rows show with a probability of 80 %, in the unit of the metric."""
    reading: Literal["better", "worse", "undecided"]
    """Whether ``arm`` is better or worse than ``against``; undecided if ``corrected_p_value`` is above 0.05."""


class Savings(Document):
    """The tokens, time and cost that the result of a run saves compared with the full prompt."""

    prompt_tokens: float
    """The share of FullPrompt's prompt tokens that the result does not send; negative if the result sends more."""
    latency_ratio: float | None = None
    """The median latency of FullPrompt, divided by the median latency of the result, for queries that are answered one
    by one. None if no queries were timed."""
    throughput_ratio: float | None = None
    """The number of queries per second that the result answers in batches, divided by the same number for FullPrompt.
    None if no queries were timed."""
    cost: float | None = None
    """The share of FullPrompt's cost that the result saves; None if the job has no prices."""
    computed_tokens: float
    """The share of FullPrompt's computed prompt tokens that the result saves if the server keeps shared tokens."""
    kept_latency_ratio: float | None = None
    """This is ``latency_ratio`` with the shared tokens of FullPrompt's prompts computed before."""
    kept_throughput_ratio: float | None = None
    """This is ``throughput_ratio`` with the shared tokens of FullPrompt's prompts computed before."""
    kept_cost: float | None = None
    """This is ``cost`` if the server keeps the shared tokens."""


class TrainingCost(Document):
    """What the training of the stages took, without the evaluation, and from how many queries on it pays."""

    device_seconds: float
    """The training time of all stages and the teacher's work, times the number of workers."""
    cost: float | None = None
    """The cost in the job's currency; None if the job has no price of a device."""
    pays_from: int | None = None
    """The number of queries after which the savings exceed the cost; None if there is no cost, or nothing is saved."""
    pays_from_if_kept: int | None = None
    """This is ``pays_from`` if the server keeps the shared beginning of prompts."""


class Verdict(Document):
    """The answer to the question of whether the query alone is enough, with the reasons for the answer."""

    outcome: VerdictOutcome
    headline: str
    reasons: list[str]
    """Sentences that give the figures on which ``outcome`` is based."""
    metric: Metric
    max_drop: float
    """The loss of score that the job allows, as a share of the metric's range."""
    arm: str | None = None
    """The name of the arm that the verdict is about; None if no stage passed the gate."""


class Example(Document):
    """A held-out row that only one of two arms answered right: the result or FullPrompt."""

    id: str
    query: str
    expected: str
    with_full_prompt: str
    with_result: str


class Examples(Document):
    """The held-out rows that only the trained model (gained) or only FullPrompt (lost) answers right by ``metric``."""

    metric: Metric
    """The first metric of the job that is a share, or else ExactMatch."""
    gained_total: int
    lost_total: int
    gained: list[Example]
    lost: list[Example]


class WallTime(Document):
    """The wall time of a run on its first worker, over all attempts whose times were stored."""

    seconds: float
    phases: dict[str, float]
    """The seconds of each phase, the longest first."""
    attempts: int


class Reproducibility(Document):
    """The seeds, versions and methods that a reader needs to compute the figures of the report again."""

    seeds: dict[str, int]
    versions: dict[str, str]
    signatures: dict[Metric, str] = Field(default_factory=dict)
    """The settings and version of sacrebleu, for each of its metrics."""
    interval_methods: list[str]
    normalizers: list[Normalizer] = Field(default_factory=list)
    """The differences that exact match ignores, besides white space."""


class Report(Document):
    """The whole report of a run."""

    schema_version: Literal["3.0", "3.1"] = "3.1"
    verdict: Verdict
    warnings: list[str]
    notes: list[str]
    metrics: list[Metric]
    """The job's metrics; the verdict uses the first one."""
    arms: list[ArmReport]
    comparisons: list[Comparison]
    pass_at_k: PassAtKReport | None = None
    """The estimates of pass@k; None if the job does not ask for them."""
    savings: Savings | None = None
    """The savings of the result compared with the full prompt; None if no stage passed the gate."""
    training: TrainingCost
    wall_time: WallTime | None = None
    """None if no times were stored."""
    stages: list[StageRecord]
    planned_stages: int
    gate: GateFacts
    direct: TrackRecord | None = None
    tuned: TrackRecord | None = None
    """The training of FullPromptTuned; None if the run does not have this arm."""
    loss: list[LossCurve]
    examples: Examples
    job: JobFacts
    reference: Reference = Reference.ANSWERS
    """The answers with which the answers of every arm are compared."""
    uncovered: list[str] = Field(default_factory=list)
    """The entries of the template's lists that no training row mentions, neither in its query nor in its answer."""
    unneeded: list[str] = Field(default_factory=list)
    """The sentences of the template without which the base model's probabilities of training answers hardly change."""
    data: DataFacts
    retention: RetentionFacts | None = None
    """What the trained model does under another prompt; None if the job does not check this."""
    teacher: TeacherFacts | None = None
    """The settings of the teacher, and what its answers cost; None if nothing was taught."""
    prices: PriceFacts | None = None
    reproducibility: Reproducibility

    def arm(self, name: str) -> ArmReport | None:
        """Return the arm with this name, or None if the run does not have it."""
        return next((arm for arm in self.arms if arm.name == name), None)


def report_to_json(report: Report) -> str:
    """Return ``report`` as the text of report.json, with names in camelCase and without fields that are None."""
    return report.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"


def report_from_json(text: str | bytes) -> Report:
    """Return the report in ``text``, which is the content of report.json.

    Raises:
        pydantic.ValidationError: if a field is missing, unknown or out of range.
    """
    return Report.model_validate_json(text)


def report_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of report.json."""
    return Report.model_json_schema(by_alias=True, mode="serialization")
