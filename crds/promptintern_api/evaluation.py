"""spec.evaluation: the metrics, the rows on which they are measured, and the gate that may stop the training."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule


class Metric(StrEnum):
    """A score: from 0 to 1 for each answer (ExactMatch), or from 0 to 100 for a set of answers (BLEU)."""

    EXACT_MATCH = "ExactMatch"
    BLEU = "BLEU"


class Arm(StrEnum):
    """A way to answer the held-out queries."""

    FULL_PROMPT = "FullPrompt"
    QUERY_ONLY = "QueryOnly"
    DIRECT = "Direct"
    BASE = "Base"


class OnGateFail(StrEnum):
    """The action taken if a stage fails its gate."""

    STOP = "Stop"
    CONTINUE = "Continue"


class DirectBudget(StrEnum):
    """The amount of training in which the Direct arm equals all stages together."""

    ROWS = "Rows"
    TOKENS = "Tokens"


class Gate(ApiModel):
    """A check of the score after every stage."""

    max_drop: Annotated[
        Number,
        Field(
            ge=0,
            le=1,
            description=(
                "Largest drop that passes the gate: how far the score of a stage on its own prompt may fall below the "
                "score of FullPrompt on the same rows, as a share of the metric's range (1 for ExactMatch, 100 for "
                "BLEU)."
            ),
        ),
    ] = 0.02
    on_fail: Annotated[
        OnGateFail,
        Field(
            description=(
                "Action if the drop is larger. Stop ends the training and keeps the last stage that passed. Continue "
                "records the failure and goes on to the next stage."
            )
        ),
    ] = OnGateFail.CONTINUE


class Prices(ApiModel):
    """The prices of the served model."""

    input_per_million: Annotated[
        Number, Field(ge=0, le=1e6, description="Price of 1,000,000 prompt tokens, in `currency`.")
    ]
    output_per_million: Annotated[
        Number, Field(ge=0, le=1e6, description="Price of 1,000,000 answer tokens, in `currency`.")
    ]
    currency: Annotated[
        str,
        StringConstraints(min_length=1, max_length=8),
        Field(description="Currency that the report shows beside costs."),
    ] = "USD"


class EvaluationSpec(ApiModel):
    """The evaluation of the result."""

    metrics: Annotated[
        list[Metric],
        Field(
            min_length=1,
            max_length=2,
            description=(
                "Metrics of the report. ExactMatch is the share of answers that equal an accepted answer (0 to 1). "
                "BLEU is the corpus score of sacrebleu (0 to 100). The first metric is the score of the stages, the "
                "gate and the verdict. A metric may be listed once."
            ),
            json_schema_extra={"x-kubernetes-list-type": "atomic"},  # the order matters
        ),
    ] = [Metric.EXACT_MATCH, Metric.BLEU]
    arms: Annotated[
        list[Arm],
        Field(
            min_length=1,
            max_length=4,
            description=(
                "Ways to answer the held-out rows, which the report compares. FullPrompt is the base model with the "
                "whole template and K examples. QueryOnly is the internalized model with the prompt of the last stage. "
                "Direct is a plain fine-tune on the query alone with the same budget. Base is the base model with the "
                "query alone. FullPrompt and QueryOnly are required."
            ),
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = [Arm.FULL_PROMPT, Arm.QUERY_ONLY, Arm.DIRECT, Arm.BASE]
    gate: Annotated[Gate, Field(description="Check of the score after every stage.")] = Gate()
    stage_rows: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description=(
                "Number of held-out rows, taken from the start of the file, that are answered after every stage for "
                "its score and the gate."
            ),
        ),
    ] = 100
    max_new_tokens: Annotated[
        int,
        Field(
            ge=1,
            le=65_536,
            description=(
                "Longest generated answer, in tokens. A prompt and this many tokens together may not exceed "
                "training.maxTokens."
            ),
        ),
    ] = 256
    stop: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=256)]],
        Field(
            max_length=16,
            description=(
                "Strings at which an answer ends, once it holds more than white space. The string itself is not a part "
                "of the answer. An answer also ends at the end token of the model and after `maxNewTokens`."
            ),
        ),
    ] = []
    batch_size: Annotated[
        int, Field(ge=1, le=65_536, description="Number of queries that each worker answers in one batch.")
    ] = 32
    latency_queries: Annotated[
        int,
        Field(
            ge=0,
            le=10_000,
            description=(
                "Number of held-out queries that are answered one by one to measure the latency at batch size 1. 0 "
                "skips the measurement."
            ),
        ),
    ] = 20
    direct_budget: Annotated[
        DirectBudget,
        Field(
            description=(
                "Training budget of the Direct arm. Rows trains on every row as often as all stages together. Tokens "
                "trains on as many tokens as all stages together, which takes many more passes over the short prompts."
            )
        ),
    ] = DirectBudget.ROWS
    prices: Annotated[
        Prices | None,
        Field(
            description=(
                "Prices of the served model, from which the report computes the cost of 1,000 queries. If it is left "
                "out, the report shows no costs."
            )
        ),
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
            message="must hold QueryOnly and FullPrompt, because the verdict compares them",
            cel="!has(self.arms) || ('QueryOnly' in self.arms && 'FullPrompt' in self.arms)",
            holds=lambda self: Arm.QUERY_ONLY in self.arms and Arm.FULL_PROMPT in self.arms,
        ),
    )
