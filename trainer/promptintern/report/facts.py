"""The models of facts.json, which holds everything that the report of a run is computed from.

`promptintern.pipeline.facts` collects the facts from a run's files, `build.py` computes the report from them, and
`schema.py` holds the models of the report itself.
"""

from typing import Literal, Self

from promptintern_api.contract import RUN_FORMAT
from promptintern_api.evaluation import OnGateFail, Reference
from promptintern_api.metrics import Metric, Normalizer
from promptintern_api.training import TeacherLoss, TeacherModel
from pydantic import Field, model_validator

from promptintern.document import Document
from promptintern.sandbox.verdict import Verdict
from promptintern.stage_record import Count, Seconds, StageRecord, TrackRecord

FULL_PROMPT = "FullPrompt"
QUERY_ONLY = "QueryOnly"
DIRECT = "Direct"
BASE = "Base"
FULL_PROMPT_TUNED = "FullPromptTuned"
COMPRESSED_ONLY = "CompressedOnly"
TEMPLATE_ONLY = "TemplateOnly"
KEPT_STAGE = "KeptStage"
"""The name of the arm that replaces QueryOnly if a gate stopped the run. This arm uses the adapter and the prompt of
the last stage that passed the gate."""


def compressed_arm(stage: int) -> str:
    """Return the name of the arm that answers with the base weights and the prompt of a stage, counted from 0."""
    return f"{COMPRESSED_ONLY}-{stage + 1}"


class HeldOutRow(Document):
    """A held-out row, which every arm of the run has answered."""

    id: str
    query: str
    accepted: list[str] = Field(min_length=1)
    """The accepted answers to the query. The report shows the first one as the expected answer. If the run compares all
    arms with FullPrompt, the only one is the answer of FullPrompt."""


class DrawnFacts(Document):
    """The draws for pass@k."""

    samples: int = Field(ge=1)
    """The number of answers that were drawn for each row."""
    temperature: float
    k: list[int]
    """The numbers k for which the report shows pass@k."""
    passes: dict[str, list[Count]]
    """The number of drawn answers whose program passed, for each row, by arm."""


class LatencyFacts(Document):
    """The time that an arm's answers took on the run's device."""

    seconds_alone: list[Seconds] = Field(min_length=1)
    """The time to answer each query, in seconds, when queries are answered one by one."""
    batched_seconds: Seconds
    """The total time to answer ``batched_queries`` queries, in seconds, when queries are answered in batches."""
    batched_queries: Count
    batch_size: Count


class AttemptFacts(Document):
    """The wall time of an attempt of a run, on the first worker."""

    term: Count
    seconds: dict[str, Seconds]
    """The seconds of each phase: load, prepare, teach, train, evaluate, measure latency, save, other."""
    at: str
    """The time at which ``seconds`` were stored last, in ISO 8601."""

    @property
    def did_something(self) -> bool:
        """Whether the attempt did more than find out that everything was done before."""
        idle = ("load", "prepare", "save", "other")
        return any(seconds >= 1 for phase, seconds in self.seconds.items() if phase not in idle)


class ArmFacts(Document):
    """The answers of an arm to the held-out rows. Each list has one item for each row."""

    name: str
    rate: float | None = None
    """The achieved rate of the template in the prompts of CompressedOnly; None for other arms."""
    shots: Count | None = None
    """The number of examples in the prompts of CompressedOnly; None for other arms."""
    predictions: list[str]
    prompt_tokens: list[Count]
    answer_tokens: list[Count]
    """The number of generated tokens of each answer, including the end token if the answer has one."""
    verdicts: list[Verdict] | None = None
    """How the program in each answer ended; None unless the job has the metric PassAt1."""
    numbers: list[float | None] | None = None
    """The number that the user's scorer gave each answer, and None where it failed; None unless the job has the metric
    Scorer."""
    fault: str | None = None
    """The most frequent reason for which the scorer failed; None if it did not fail."""
    shared_tokens: Count = 0
    """The number of tokens with which all prompts of the arm begin."""
    latency: LatencyFacts | None = None
    kept_latency: LatencyFacts | None = None
    """The time that the answers took when the shared beginning of the prompts had been computed before."""


class GateFacts(Document):
    """The settings and the result of the gate, which compares the score of every stage with the score of FullPrompt."""

    max_drop: float = Field(ge=0)
    """The loss of score that the gate allows, as a share of the metric's range."""
    on_fail: OnGateFail
    stopped_at: Count | None = None
    """The index of the stage that failed the gate and thereby ended training; None if no gate stopped the run."""
    kept: Count | None = None
    """The index of the stage whose adapter is the result of the run; None if no stage passed the gate."""


class DroppedRows(Document):
    """The number of rows that were dropped for one reason."""

    reason: str
    rows: Count


class SourceFacts(Document):
    """The facts about the file of the training rows, of the queries without answers, or of the held-out rows."""

    uri: str
    digest: str
    """The SHA-256 digest of the file."""
    rows: Count
    """The number of rows of the file that the run used."""
    dropped: list[DroppedRows] = Field(default_factory=list)


class WrittenFacts(Document):
    """The queries that the base model wrote."""

    drawn: Count
    """The number of queries that were drawn."""
    valid: Count
    """The number of drawn queries that are valid and distinct."""
    rows: Count
    """The number of written queries from which the run learned."""
    dropped: list[DroppedRows] = Field(default_factory=list)


class DataFacts(Document):
    """The facts about the data of a job."""

    train: SourceFacts | None = None
    """The training rows; None if the job learned only from queries without answers."""
    queries: SourceFacts | None = None
    """The queries without answers; None if the job has none. ``rows`` counts the queries that the teacher answered."""
    written: WrittenFacts | None = None
    """The queries that the base model wrote; None if it wrote none."""
    eval: SourceFacts


class TeacherFacts(Document):
    """The settings of the teacher, and what its answers cost."""

    model: TeacherModel = TeacherModel.BASE
    """The model that taught: the base model with the full prompt, or earlier stages with their own prompts."""
    loss: TeacherLoss
    top_k: Count | None = None
    """The number of tokens of each distribution of the teacher; None with loss ``Answers``."""
    weight: float
    samples: Count | None = None
    """The number of answers that were drawn for each query; None if the answers are greedy."""
    temperature: float | None = None
    """The temperature at which the answers were drawn; None if the answers are greedy."""
    answer_tokens: Count = 0
    """The number of tokens that the teacher generated."""
    answer_seconds: Seconds = 0.0
    """The time that the teacher took to generate its answers."""
    score_seconds: Seconds = 0.0
    """The time that it took to compute the teacher's distributions."""


class RetentionFacts(Document):
    """What the trained model does under another prompt than the one that it internalized, compared with the base."""

    prompts: int = Field(ge=1)
    too_long: Count = 0
    """The number of further prompts, which are left out because they do not fit the model's context length."""
    changed: Count
    """The number of prompts to which the greedy answer changed."""
    tokens: Count
    """The number of tokens of the base model's answers."""
    divergence: float = Field(ge=0)
    """The mean Kullback-Leibler divergence of the trained model from the base model at these tokens, in nats."""
    max_divergence: float
    max_changed: float | None = None
    neutral: bool
    """Whether the prompts are those of the trainer, and not those of the job."""

    @property
    def passed(self) -> bool:
        """Whether the figures are within the job's limits. Without any answer to compare, the check fails."""
        if not self.tokens:
            return False
        may_change = self.prompts if self.max_changed is None else self.max_changed * self.prompts
        return self.divergence <= self.max_divergence and self.changed <= may_change


class LoraFacts(Document):
    """The settings of the LoRA adapter that the run trained."""

    r: int
    alpha: float
    dropout: float
    target_modules: str


class JobFacts(Document):
    """The facts about a job and about the environment in which it ran."""

    name: str
    namespace: str
    run_uri: str
    model_uri: str
    model_digest: str | None = None
    dtype: str
    device: str
    workers: Count
    key_value_bytes: Count | None = None
    """The memory in bytes of the keys and values of one token; None if the model's configuration does not say it."""
    lora: LoraFacts
    learning_rate: float
    seeds: dict[str, int]
    settings: dict[str, str] = Field(default_factory=dict)
    """Further settings of the job that the report shows, by name, such as the compressor and the retriever."""
    versions: dict[str, str] = Field(default_factory=dict)
    """The versions of the trainer, of Python and of the libraries."""
    started_at: str | None = None
    """The time at which the run began, in the format of RFC 3339."""
    finished_at: str | None = None
    """The time at which the run finished, in the format of RFC 3339."""


class PriceFacts(Document):
    """The prices of serving the model, per million prompt (input) tokens and per million answer (output) tokens."""

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    cached_input_per_million: float | None = Field(default=None, ge=0)
    """The price of prompt tokens that the server has kept; None if they cost as much as others."""
    cacheable_from: Count | None = None
    """The smallest number of tokens at the beginning of a prompt that the server keeps."""
    device_per_hour: float | None = Field(default=None, ge=0)
    """The price of one worker's device for an hour of training."""
    currency: str


class CurvePoint(Document):
    """A point of a loss curve, for the optimizer steps after the previous point, up to and including ``step``."""

    step: Count
    loss: float
    """The mean loss per answer token over the steps of this point, in nats."""


class LossCurve(Document):
    """The loss of a stage or of the Direct arm over its optimizer steps, in at most 100 points."""

    track: str
    """The index of the stage, ``direct`` for Direct, or ``tuned`` for FullPromptTuned."""
    points: list[CurvePoint]


class RunFacts(Document):
    """All facts of a run, from which the report is computed."""

    schema_version: Literal["2.1"] = RUN_FORMAT
    job: JobFacts
    metrics: list[Metric] = Field(min_length=1)
    """The job's metrics; the gate and the verdict use the first one."""
    normalizers: list[Normalizer] = Field(default_factory=list)
    """The differences that ExactMatch ignores."""
    max_new_tokens: Count | None = None
    """The maximum number of tokens that an arm may generate as an answer."""
    rows: list[HeldOutRow] = Field(min_length=1)
    reference: Reference = Reference.ANSWERS
    """The answers with which the answers of every arm are compared."""
    arms: list[ArmFacts]
    stages: list[StageRecord]
    """The records of the stages that were trained, which may be fewer than planned."""
    planned_stages: Count
    direct: TrackRecord | None = None
    tuned: TrackRecord | None = None
    """The training of FullPromptTuned; None if the run does not have this arm."""
    loss: list[LossCurve] = Field(default_factory=list)
    gate: GateFacts
    uncovered: list[str] = Field(default_factory=list)
    """The entries of the template's lists that no training row mentions, neither in its query nor in its answer."""
    unneeded: list[str] = Field(default_factory=list)
    """The sentences of the template without which the base model's probabilities of training answers hardly change."""
    data: DataFacts
    drawn: DrawnFacts | None = None
    """The draws for pass@k; None if the job does not ask for it."""
    retention: RetentionFacts | None = None
    """What the trained model does under another prompt; None if the job does not check this."""
    teacher: TeacherFacts | None = None
    """The settings of the teacher, and what its answers cost; None if nothing was taught."""
    prices: PriceFacts | None = None
    attempts: list[AttemptFacts] = Field(default_factory=list)
    """The wall time of each attempt by phase, the oldest first."""
    warnings: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """Sentences that say how the run was computed, such as why packing was off."""

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
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
        """Return the arm with this name, or None if it was not run."""
        return next((arm for arm in self.arms if arm.name == name), None)

    @property
    def result(self) -> ArmFacts | None:
        """The arm of the run's result, which is QueryOnly or KeptStage; None if no stage passed the gate."""
        return self.arm(QUERY_ONLY) or self.arm(KEPT_STAGE)


def facts_to_json(facts: RunFacts) -> str:
    """Return ``facts`` as a JSON document with names in camelCase."""
    return facts.model_dump_json(by_alias=True, exclude_none=True, indent=1)


def facts_from_json(text: str | bytes) -> RunFacts:
    """Return the facts in ``text``, which is the content of facts.json.

    Raises:
        pydantic.ValidationError: if a field is missing, unknown or out of range.
    """
    return RunFacts.model_validate_json(text)
