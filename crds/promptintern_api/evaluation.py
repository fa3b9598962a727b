"""spec.evaluation: the metrics, the rows on which they are measured, and the gate that may stop the training."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule, no_repeats
from promptintern_api.data import DataSource
from promptintern_api.metrics import Metric, Normalizer, PassAtK, Programs, Scorer
from promptintern_api.prompt import count_placeholder


class Arm(StrEnum):
    """A way to answer the held-out queries."""

    FULL_PROMPT = "FullPrompt"
    QUERY_ONLY = "QueryOnly"
    DIRECT = "Direct"
    BASE = "Base"
    FULL_PROMPT_TUNED = "FullPromptTuned"
    COMPRESSED_ONLY = "CompressedOnly"
    TEMPLATE_ONLY = "TemplateOnly"


class Reference(StrEnum):
    """The answers with which the answers of every arm are compared."""

    ANSWERS = "Answers"
    FULL_PROMPT = "FullPrompt"


class AnswerEngine(StrEnum):
    """The engine that generates answers."""

    PYTORCH = "PyTorch"
    VLLM = "VLLM"


class OnGateFail(StrEnum):
    """The action taken if a stage fails its gate."""

    STOP = "Stop"
    CONTINUE = "Continue"


class DirectBudget(StrEnum):
    """The unit in which the training budget of the Direct arm is measured."""

    ROWS = "Rows"
    TOKENS = "Tokens"


class Gate(ApiModel):
    """The check that compares the score of each stage with the score of FullPrompt."""

    max_drop: Annotated[
        Number,
        Field(
            ge=0,
            le=1,
            description=(
                "Largest drop that passes the gate: how far the score of a stage on its own prompt may fall below the "
                "score of FullPrompt on the same rows, as a share of the metric's range (100 for BLEU and ChrF, 1 for "
                "all other metrics)."
            ),
        ),
    ] = 0.02
    on_fail: Annotated[
        OnGateFail,
        Field(
            description=(
                "Action if a stage fails the gate. Stop ends the training and keeps the last stage that passed. "
                "Continue records the failure and goes on to the next stage."
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
    cached_input_per_million: Annotated[
        Number | None,
        Field(
            ge=0,
            le=1e6,
            description=(
                "Price of 1,000,000 prompt tokens that the server has kept from earlier requests, in `currency`: the "
                "tokens with which all prompts begin. If it is left out, they cost as much as other prompt tokens."
            ),
        ),
    ] = None
    cacheable_from: Annotated[
        int | None,
        Field(
            ge=0,
            le=1_000_000_000,
            description=(
                "Smallest number of tokens at the beginning of a prompt that the server keeps. Shorter beginnings are "
                "paid in full. If it is left out, every beginning is kept."
            ),
        ),
    ] = None
    device_per_hour: Annotated[
        Number | None,
        Field(
            ge=0,
            le=1e6,
            description=(
                "Price of one worker's device for an hour of training, in `currency`. With it, the report states what "
                "the training cost, and from how many queries on the adapter pays."
            ),
        ),
    ] = None
    currency: Annotated[
        str,
        StringConstraints(min_length=1, max_length=8),
        Field(description="Currency that the report shows beside costs."),
    ] = "USD"


class Retention(ApiModel):
    """The check of what the trained model still does under another prompt than the one that it internalized."""

    template: Annotated[
        str | None,
        StringConstraints(min_length=1, max_length=262_144),
        Field(
            description=(
                "Other prompt, with {query} where the query goes. If it is left out, the queries of `data` are the "
                "prompts."
            )
        ),
    ] = None
    data: Annotated[
        DataSource | None,
        Field(
            description=(
                "File with queries that the base model and the trained model answer under this prompt. Answers in the "
                "file are not read. If it is left out, neutral prompts of many kinds that the trainer has are used."
            )
        ),
    ] = None
    max_divergence: Annotated[
        Number,
        Field(
            gt=0,
            le=100,
            description=(
                "Largest mean Kullback-Leibler divergence of the trained model from the base model that passes the "
                "check, in nats per token of the base model's answers."
            ),
        ),
    ] = 0.25
    max_changed: Annotated[
        Number | None,
        Field(
            ge=0,
            le=1,
            description=(
                "Largest share of changed answers that passes the check. One other token makes another answer, so the "
                "share is large if answers are long. If it is left out, only `maxDivergence` decides."
            ),
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="template",
            message="must hold the placeholder {query} exactly once",
            cel="!has(self.template) || self.template.split('{query}').size() == 2",
            holds=lambda self: self.template is None or count_placeholder(self.template, "query") == 1,
        ),
        Rule(
            field="data",
            message="is required with template; name a file of queries for this prompt",
            cel="!has(self.template) || has(self.data)",
            holds=lambda self: self.template is None or self.data is not None,
        ),
    )


class EvaluationSpec(ApiModel):
    """The evaluation of the trained model."""

    metrics: Annotated[
        list[Metric],
        Field(
            min_length=1,
            max_length=6,
            description=(
                "Metrics of the report. ExactMatch is the share of answers that equal an accepted answer (0 to 1). "
                "BLEU and ChrF are the corpus scores of sacrebleu (0 to 100). PassAt1 is the share of answers whose "
                "Python program passes the tests of its row (`data.eval.columns.tests`); see `programs`. BashTemplate "
                "is the share of answers that have the utilities, options and operators of an accepted Bash command, "
                "whatever the arguments. Scorer is the mean of the numbers that your own `scorer` gives (0 to 100). "
                "The first metric gives the score of each stage and decides the gate and the verdict. No metric may be "
                "listed twice."
            ),
            json_schema_extra={"x-kubernetes-list-type": "atomic"},  # the order matters
        ),
    ] = [Metric.EXACT_MATCH, Metric.BLEU]
    arms: Annotated[
        list[Arm],
        Field(
            min_length=1,
            max_length=7,
            description=(
                "Ways to answer the held-out rows, which the report compares. FullPrompt is the base model with the "
                "whole template and K examples (`schedule.shots`, or the largest number in `schedule.explicit`). "
                "QueryOnly is the internalized model with the prompt of the last stage. Direct is the base model "
                "fine-tuned on the query alone, with the budget that `directBudget` sets. Base is the base model, "
                "without training, with the query alone. FullPromptTuned is the base model fine-tuned with the full "
                "prompt and the same budget: what fine-tuning reaches if the prompt stays. CompressedOnly is the base "
                "model, without training, with the prompt of each stage. TemplateOnly is the base model with the whole "
                "template and no examples, most of which a server can keep between requests. FullPrompt and QueryOnly "
                "are required."
            ),
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = [Arm.FULL_PROMPT, Arm.QUERY_ONLY, Arm.DIRECT, Arm.BASE]
    reference: Annotated[
        Reference | None,
        Field(
            description=(
                "Answers with which the answers of every arm are compared. Answers are the written answers in "
                "`data.eval`. FullPrompt are the answers of the arm FullPrompt, so `data.eval` needs no answers; the "
                "scores then say how far an arm agrees with the full prompt, not whether it is right. If the field is "
                "left out, it is Answers."
            )
        ),
    ] = None
    gate: Annotated[
        Gate, Field(description="Check that compares the score of each stage with the score of FullPrompt.")
    ] = Gate()
    stage_rows: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description=(
                "Number of held-out rows, taken from the start of the file, that are answered after every stage to "
                "compute its score and check the gate."
            ),
        ),
    ] = 100
    max_new_tokens: Annotated[
        int,
        Field(
            ge=1,
            le=65_536,
            description=(
                "Maximum length of a generated answer, in tokens. A prompt and this many tokens together may not "
                "exceed training.maxTokens."
            ),
        ),
    ] = 256
    stop: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=256)]],
        Field(
            max_length=16,
            description=(
                "Strings that end an answer once the answer contains more than white space. The string itself is not "
                "part of the answer. An answer also ends at the end-of-sequence token of the model and after "
                "`maxNewTokens` tokens."
            ),
        ),
    ] = []
    batch_size: Annotated[
        int, Field(ge=1, le=65_536, description="Number of queries that each worker answers in one batch.")
    ] = 32
    engine: Annotated[
        AnswerEngine | None,
        Field(
            description=(
                "Engine that generates answers, for evaluation and for the teacher. PyTorch is this program's own "
                "continuous batching. VLLM is vLLM, which must be installed where the job runs. Latencies are measured "
                "with PyTorch either way. If the field is left out, it is PyTorch."
            )
        ),
    ] = None
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
                "Training budget of the arms Direct and FullPromptTuned. Rows: they train on every row as often as "
                "all stages do in total. Tokens: they train on as many tokens as all stages do in total. For Direct, "
                "this takes many more passes over the rows, because its prompts are short."
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

    normalizers: Annotated[
        list[Normalizer] | None,
        Field(
            min_length=1,
            max_length=5,
            description=(
                "Differences between a generated and an accepted answer that ExactMatch ignores, besides white space. "
                "Unicode: other forms of the same characters (NFKC). CodeFence: everything around the first Markdown "
                "code block. Case: upper and lower case. Punctuation: punctuation marks. Articles: the English words "
                "a, an and the. They apply in this order, whatever their order here. If the field is left out, only "
                "white space is ignored."
            ),
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = None
    scorer: Annotated[
        Scorer | None, Field(description="Function or program that gives the numbers of the metric Scorer.")
    ] = None
    pass_at_k: Annotated[
        PassAtK | None,
        Field(
            description=(
                "Draws of several answers to each held-out row with FullPrompt and with the result, from which the "
                "report estimates pass@k. It needs the metric PassAt1. If it is left out, there are no draws."
            )
        ),
    ] = None
    programs: Annotated[
        Programs | None,
        Field(description="Limits of the programs that PassAt1 runs. If it is left out, the defaults apply."),
    ] = None

    retention: Annotated[
        Retention | None,
        Field(
            description=(
                "Check of what the trained model still does under another prompt. If it is left out, nothing is "
                "checked."
            )
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        no_repeats("metrics", "a metric"),
        Rule(
            field="scorer",
            message="is required if metrics has Scorer, and has no effect without it",
            cel="has(self.scorer) == (has(self.metrics) && 'Scorer' in self.metrics)",
            holds=lambda self: (self.scorer is not None) == (Metric.SCORER in self.metrics),
        ),
        Rule(
            field="passAtK",
            message="needs the metric PassAt1",
            cel="!has(self.passAtK) || (has(self.metrics) && 'PassAt1' in self.metrics)",
            holds=lambda self: self.pass_at_k is None or Metric.PASS_AT_1 in self.metrics,
        ),
        no_repeats("normalizers", "a normalizer"),
        Rule(
            field="normalizers",
            message="is only for ExactMatch, which metrics does not have",
            cel="!has(self.normalizers) || !has(self.metrics) || 'ExactMatch' in self.metrics",
            holds=lambda self: self.normalizers is None or Metric.EXACT_MATCH in self.metrics,
        ),
        no_repeats("arms", "an arm"),
        Rule(
            field="arms",
            message="must hold QueryOnly and FullPrompt, because the verdict compares them",
            cel="!has(self.arms) || ('QueryOnly' in self.arms && 'FullPrompt' in self.arms)",
            holds=lambda self: Arm.QUERY_ONLY in self.arms and Arm.FULL_PROMPT in self.arms,
        ),
    )
