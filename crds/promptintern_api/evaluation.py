"""spec.evaluation: what is measured, on what, and when to stop."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule


class Metric(StrEnum):
    """A number between 0 and 1 for one answer (ExactMatch) or 0 and 100 for a set of them (BLEU)."""

    EXACT_MATCH = "ExactMatch"
    BLEU = "BLEU"


class Arm(StrEnum):
    """One way to answer the held-out queries."""

    FULL_PROMPT = "FullPrompt"
    QUERY_ONLY = "QueryOnly"
    DIRECT = "Direct"
    BASE = "Base"


class OnGateFail(StrEnum):
    """What a failed gate does."""

    STOP = "Stop"
    CONTINUE = "Continue"


class DirectBudget(StrEnum):
    """What the Direct arm's training has in common with the stages together."""

    ROWS = "Rows"
    TOKENS = "Tokens"


class Gate(ApiModel):
    """A check after every stage."""

    max_drop: Annotated[
        Number,
        Field(
            ge=0,
            le=1,
            description=(
                "How far a stage's score on its own prompt may fall below FullPrompt's on the same rows, as "
                "a share of the metric's range."
            ),
        ),
    ] = 0.02
    on_fail: Annotated[
        OnGateFail,
        Field(
            description=("Stop ends training and keeps the last stage that passed; Continue records it and goes on.")
        ),
    ] = OnGateFail.CONTINUE


class Prices(ApiModel):
    """What the served model costs."""

    input_per_million: Annotated[Number, Field(ge=0, le=1e6, description="Price of 1,000,000 prompt tokens.")]
    output_per_million: Annotated[Number, Field(ge=0, le=1e6, description="Price of 1,000,000 answer tokens.")]
    currency: Annotated[
        str, StringConstraints(min_length=1, max_length=8), Field(description="Shown beside costs.")
    ] = "USD"


class EvaluationSpec(ApiModel):
    """How the result is judged."""

    metrics: Annotated[
        list[Metric],
        Field(
            min_length=1,
            max_length=2,
            description="The first one is the score of the gate and of the verdict.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},  # the order counts
        ),
    ] = [Metric.EXACT_MATCH, Metric.BLEU]
    arms: Annotated[
        list[Arm],
        Field(
            min_length=1,
            max_length=4,
            description=(
                "FullPrompt: base weights, the whole template, K examples. QueryOnly: the internalized "
                "model. Direct: a plain fine-tune on the query alone with the same budget. Base: base "
                "weights, the query alone."
            ),
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = [Arm.FULL_PROMPT, Arm.QUERY_ONLY, Arm.DIRECT, Arm.BASE]
    gate: Annotated[Gate, Field(description="The check after every stage.")] = Gate()
    stage_rows: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Held-out rows, the first so many, that are answered after every stage.",
        ),
    ] = 100
    max_new_tokens: Annotated[int, Field(ge=1, le=65_536, description="Longest generated answer.")] = 256
    stop: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=256)]],
        Field(
            max_length=16,
            description="An answer ends before the first of these strings, besides the end token.",
        ),
    ] = []
    batch_size: Annotated[int, Field(ge=1, le=65_536, description="Queries generated at once.")] = 32
    latency_queries: Annotated[
        int,
        Field(
            ge=0,
            le=10_000,
            description="Queries timed one by one for the latency at batch 1. 0 leaves it out.",
        ),
    ] = 20
    direct_budget: Annotated[
        DirectBudget,
        Field(
            description=(
                "Rows: Direct sees every row as often as all stages together. Tokens: Direct trains on as "
                "many tokens as all stages together, which is many more passes over the short prompts."
            )
        ),
    ] = DirectBudget.ROWS
    prices: Annotated[
        Prices | None, Field(description="Prices of the served model, for the cost per 1,000 queries.")
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="metrics",
            message="must not repeat a metric",
            cel="!has(self.metrics) || self.metrics.all(m, self.metrics.exists_one(n, n == m))",
            holds=lambda self: len(set(self.metrics)) == len(self.metrics),
        ),
        Rule(
            field="arms",
            message="must not repeat an arm",
            cel="!has(self.arms) || self.arms.all(m, self.arms.exists_one(n, n == m))",
            holds=lambda self: len(set(self.arms)) == len(self.arms),
        ),
        Rule(
            field="arms",
            message="must hold QueryOnly and FullPrompt, which the verdict compares",
            cel="!has(self.arms) || ('QueryOnly' in self.arms && 'FullPrompt' in self.arms)",
            holds=lambda self: Arm.QUERY_ONLY in self.arms and Arm.FULL_PROMPT in self.arms,
        ),
    )
