"""Finds the rows whose prompts fit the model's context length in every stage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.data import OnProblem
from promptintern_api.evaluation import Reference
from promptintern_api.prompt import CompressorKind

from promptintern.answering.answers import truncate_at_stop
from promptintern.compress import CompressedTemplate
from promptintern.errors import Problem, UserError
from promptintern.evaluate.normalizers import normalise
from promptintern.models.load import context_length
from promptintern.pipeline.inputs import (
    QUERIES_DROPPED,
    Data,
    Examples,
    length_of,
    render_prompts,
    retrieve_examples,
    stages_of,
)
from promptintern.prompt.encode import PromptEncoder
from promptintern.rows.problems import ProblemList
from promptintern.rows.types import Query, Row
from promptintern.schedule import full_prompt_shots

TOO_LONG_TO_EVALUATE = "too long to evaluate"
"""The reason for which held-out rows are dropped. Training rows are dropped for other reasons."""
_TOO_LONG_TO_TRAIN = "too long to train on"
_TOO_LONG_TO_TEACH = f"{QUERIES_DROPPED} too long for the teacher"
DEFAULT_MAX_TOKENS = 4096
"""The maximum length of a prompt with its answer, in tokens, if neither the job nor the model's config limits it."""


def max_tokens_of(job: PromptInternJob, model_config: Any) -> int:
    """Return the maximum length of a prompt with its answer, in tokens: the job's limit, or else the context length.

    Raises:
        UserError: if the job's limit exceeds the model's context length.
    """
    context = context_length(model_config)
    requested = job.spec.training.max_tokens
    if requested and context and requested > context:
        raise UserError.at(
            "spec.training.maxTokens", f"is {requested}, but the context of the base model has {context} tokens"
        )
    return requested or context or DEFAULT_MAX_TOKENS


@dataclass(frozen=True, kw_only=True)
class PromptShape:
    """The properties on which the length of a row's prompt depends: the template and the number of examples."""

    template: CompressedTemplate
    shots: int


def _longest_shapes(
    job: PromptInternJob, full: CompressedTemplate, by_stage: Sequence[CompressedTemplate]
) -> list[PromptShape]:
    """Return the shapes that may have the longest prompts.

    They are the shape of the full prompt and, if the user wrote the templates, the shape of every stage's prompt."""
    shapes = [PromptShape(template=full, shots=full_prompt_shots(job.spec.schedule))]
    if job.spec.prompt.compressor.kind is CompressorKind.PRECOMPUTED:
        shapes += [PromptShape(template=t, shots=s.shots) for t, s in zip(by_stage, stages_of(job), strict=True)]
    return shapes


@dataclass(frozen=True, kw_only=True)
class FittingRows:
    """The rows whose prompts fit the context length in every stage, with their examples."""

    data: Data
    """The rows that fit the context length, and the number of rows that were dropped."""
    examples: Examples
    max_tokens: int
    """The maximum length of a prompt with its answer, in tokens."""
    warnings: list[str]
    """Warnings about held-out rows whose accepted answers cannot be generated."""


def fit_rows(
    job: PromptInternJob,
    data: Data,
    *,
    full: CompressedTemplate,
    by_stage: Sequence[CompressedTemplate],
    encoder: PromptEncoder,
    embedder: Any,
    model_config: Any,
    needs_training_rows: bool,
) -> FittingRows:
    """Retrieve the examples of each row, check that its prompts fit the model, and drop long rows if the job says so.

    No prompt is ever truncated, because a model would learn something else from a truncated prompt.

    Args:
        full: The template at rate 1.
        by_stage: The templates of the stages. The sequence may be empty unless the user wrote the templates, because
            other templates are shorter than ``full``.
        embedder: The encoder of an Embedding retriever; None for other retrievers.
        model_config: The transformers config of the base model.
        needs_training_rows: Whether a training row or a query must be left.

    Raises:
        UserError: if a row has no answer token, a row is too long and the job does not drop long rows, or no row
            is left. The error lists all rows with a problem.
    """
    max_tokens = max_tokens_of(job, model_config)
    shapes = _longest_shapes(job, full, by_stage)
    examples = retrieve_examples(job, data, shots=full_prompt_shots(job.spec.schedule), encoder=embedder)
    max_prompt_tokens = max_tokens - job.spec.evaluation.max_new_tokens
    if max_prompt_tokens < 1:
        raise UserError.at(
            "spec.evaluation.maxNewTokens",
            f"is {job.spec.evaluation.max_new_tokens}, which leaves no room for a prompt: a sequence has at most "
            f"{max_tokens} tokens",
        )
    should_drop = job.spec.data.on_too_long is OnProblem.DROP
    if should_drop and examples.shots:
        # Rows that are too long without examples are dropped first. As examples, they would make other rows too long.
        without_examples = [PromptShape(template=shape.template, shots=0) for shape in shapes]
        flags = _flag_long_rows(
            job,
            data,
            examples,
            without_examples,
            encoder=encoder,
            max_tokens=max_tokens,
            max_prompt_tokens=max_prompt_tokens,
        )
        before, data = data, _drop_rows(data, flags)
        _check_rows_left(data, before, max_tokens, needs_training_rows=needs_training_rows)
        examples = retrieve_examples(job, data, shots=examples.shots, encoder=embedder)
    while True:
        flags = _flag_long_rows(
            job, data, examples, shapes, encoder=encoder, max_tokens=max_tokens, max_prompt_tokens=max_prompt_tokens
        )
        if not any(map(any, (flags.train, flags.queries, flags.eval))):
            warnings = [
                *_answer_warnings(job, data, encoder),
                *_thinking_warnings(job, data, encoder),
                *_date_warnings(encoder),
            ]
            return FittingRows(data=data, examples=examples, max_tokens=max_tokens, warnings=warnings)
        if not should_drop:
            prompt_limit = f"{max_prompt_tokens} tokens of prompt, the most that leaves room for maxNewTokens"
            raise UserError(
                _too_long_problems(data.train, flags.train, f"{max_tokens} tokens of prompt and answer")
                + _too_long_problems(data.queries, flags.queries, prompt_limit)
                + _too_long_problems(data.eval, flags.eval, prompt_limit)
            )
        before, data = data, _drop_rows(data, flags)
        _check_rows_left(data, before, max_tokens, needs_training_rows=needs_training_rows)
        # A dropped row is no longer an example, so examples are retrieved again, and may be longer than before.
        examples = retrieve_examples(job, data, shots=examples.shots, encoder=embedder)


def _check_rows_left(data: Data, before: Data, max_tokens: int, *, needs_training_rows: bool) -> None:
    remedy = "raise spec.training.maxTokens, shorten the template, or give shorter rows"
    if not data.eval:
        raise UserError.at("spec.data.eval", f"has no row that fits into {max_tokens} tokens; {remedy}")
    if not data.train and not data.queries and needs_training_rows:
        fields = "spec.data.train", "spec.data.queries"
        given = [field for field, rows in zip(fields, (before.train, before.queries), strict=True) if rows]
        raise UserError.at(" and ".join(given), f"have no row left that fits into {max_tokens} tokens; {remedy}")


@dataclass(frozen=True, kw_only=True)
class _LongRows:
    """A flag for every row, which is True if the row is too long."""

    train: list[bool]
    queries: list[bool]
    eval: list[bool]


def _flag_long_rows(
    job: PromptInternJob,
    data: Data,
    examples: Examples,
    shapes: Sequence[PromptShape],
    *,
    encoder: PromptEncoder,
    max_tokens: int,
    max_prompt_tokens: int,
) -> _LongRows:
    """Return a flag for each row. It is True if the row is too long in any shape.

    A training row is too long if its prompt and answer have more than ``max_tokens`` tokens; a query or a held-out row
    is too long if its prompt has more than ``max_prompt_tokens``.
    """
    answers, locations = [row.answer for row in data.train], [row.where for row in data.train]
    flags = _LongRows(
        train=[False] * len(data.train), queries=[False] * len(data.queries), eval=[False] * len(data.eval)
    )
    for shape in shapes:

        def prompts_of(
            rows: Sequence[Query], neighbours: Sequence[Sequence[int]], shape: PromptShape = shape
        ) -> Iterator[str]:
            return render_prompts(
                job, shape.template, rows=rows, neighbours=neighbours, shots=shape.shots, pool=data.train
            )

        prompts = prompts_of(data.train, examples.train)
        for i, encoded in enumerate(encoder.encode(prompts, answers, locations=locations)):
            flags.train[i] |= length_of(encoded).total > max_tokens
        for long, rows, neighbours in (
            (flags.queries, data.queries, examples.queries),
            (flags.eval, data.eval, examples.eval),
        ):
            places = [row.where for row in rows]
            for i, ids in enumerate(encoder.encode_prompts(prompts_of(rows, neighbours), locations=places)):
                long[i] |= len(ids) > max_prompt_tokens
    return flags


def _too_long_problems(rows: Sequence[Query], flags: Sequence[bool], limit: str) -> list[Problem]:
    problems = ProblemList()
    for row, flag in zip(rows, flags, strict=True):
        if flag:
            problems.add(
                row.where,
                f"has more than {limit}; raise spec.training.maxTokens, use fewer shots, or set "
                "spec.data.onTooLong: Drop",
            )
    return problems.summary()


def _drop_rows(data: Data, flags: _LongRows) -> Data:
    """Return ``data`` without the rows whose flag is True, and count these rows as dropped."""
    dropped = dict(data.dropped)
    for reason, long in (
        (_TOO_LONG_TO_TRAIN, flags.train),
        (_TOO_LONG_TO_TEACH, flags.queries),
        (TOO_LONG_TO_EVALUATE, flags.eval),
    ):
        if any(long):
            dropped[reason] = dropped.get(reason, 0) + sum(long)
    return replace(
        data,
        train=[row for row, flag in zip(data.train, flags.train, strict=True) if not flag],
        queries=[query for query, flag in zip(data.queries, flags.queries, strict=True) if not flag],
        eval=[row for row, flag in zip(data.eval, flags.eval, strict=True) if not flag],
        dropped=dropped,
    )


def _thinking_warnings(job: PromptInternJob, data: Data, encoder: PromptEncoder) -> list[str]:
    if not data.queries or not encoder.may_think:
        return []
    advice = "compare the score of FullPrompt with theirs"
    if job.spec.evaluation.reference is Reference.FULL_PROMPT:
        advice = "read some answers of FullPrompt in the report"
    return [
        "the base model can think before it answers (its chat template has <think>), but the teacher answers without "
        f"thinking, so its answers may be worse than those that you get today; {advice}"
    ]


def _date_warnings(encoder: PromptEncoder) -> list[str]:
    if encoder.date is None:
        return []
    return [
        f"the chat template writes today's date into every prompt; this run writes {encoder.date!r:.60} in its place, "
        "so that its prompts do not change at midnight, but a server that applies the template writes its own date"
    ]


def _answer_warnings(job: PromptInternJob, data: Data, encoder: PromptEncoder) -> list[str]:
    """Return warnings about held-out rows that no arm can answer right, because every accepted answer is cut off."""
    evaluation, rows = job.spec.evaluation, [row for row in data.eval if isinstance(row, Row)]
    lengths = iter(encoder.answer_lengths([answer for row in rows for answer in row.answers]))
    fits = [[next(lengths) <= evaluation.max_new_tokens for _ in row.answers] for row in rows]
    survives_stop = [
        [normalise(truncate_at_stop(answer, evaluation.stop)) == normalise(answer) for answer in row.answers]
        for row in rows
    ]
    warnings = []
    for field, possible, predicate in (
        ("maxNewTokens", fits, f"have only answers longer than the {evaluation.max_new_tokens} tokens of"),
        ("stop", survives_stop, "have only answers that contain a text of"),
    ):
        count = sum(not any(row) for row in possible)
        if count:
            warnings.append(
                f"{count} of {len(rows)} held-out rows {predicate} spec.evaluation.{field}, so no arm can get them "
                "right"
            )
    return warnings
