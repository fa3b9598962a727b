"""From a job to rows, examples and templates: everything that training and evaluation start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.data import OnProblem

from promptintern.compress import CompressedTemplate, uncompressed
from promptintern.engine.packs import Length
from promptintern.errors import Problem, UserError
from promptintern.models import context_length
from promptintern.prompt.encode import Encoded, PromptEncoder
from promptintern.prompt.render import render_prompt
from promptintern.prompt.template import parse_template
from promptintern.retrieve import build_retriever
from promptintern.rows.checks import check_rows
from promptintern.rows.load import load_rows
from promptintern.rows.types import Row
from promptintern.schedule import Stage, build_stages
from promptintern.storage.options import S3Options

DEFAULT_MAX_TOKENS = 4096
"""Where neither the job nor the model's config names a longest sequence."""


def s3_options(job: PromptInternJob) -> S3Options:
    """How the job's S3 server is reached."""
    storage = job.spec.storage
    return S3Options(endpoint=storage.endpoint, region=storage.region) if storage else S3Options()


@dataclass(frozen=True, kw_only=True)
class Data:
    """Checked rows."""

    train: list[Row]
    eval: list[Row]
    digests: dict[str, str]
    """SHA-256 of the files, by role."""
    dropped: dict[str, int]
    """Rows left out because the job says so, by reason."""
    warnings: list[str]


def load_data(job: PromptInternJob) -> Data:
    """The rows of both files, checked against each other.

    Raises:
        UserError: with every problem of both files.
    """
    spec = job.spec.data
    s3 = s3_options(job)
    train = load_rows(spec.train, field="spec.data.train", s3=s3)
    held_out = load_rows(spec.eval, field="spec.data.eval", s3=s3)
    problems = [*train.problems, *held_out.problems]
    if problems:
        raise UserError(problems)
    checked = check_rows(train.rows, held_out.rows, on_leak=spec.on_leak)
    if checked.problems:
        raise UserError(checked.problems)
    return Data(
        train=list(checked.train),
        eval=list(held_out.rows),
        digests={"train": train.sha256, "eval": held_out.sha256},
        dropped={"leaked into eval": checked.dropped_leaks} if checked.dropped_leaks else {},
        warnings=list(checked.warnings),
    )


@dataclass(frozen=True, kw_only=True)
class Examples:
    """For every row, the training rows shown with it, the best one last."""

    train: list[list[int]]
    eval: list[list[int]]
    shots: int


def retrieve_examples(job: PromptInternJob, data: Data, *, shots: int, encoder: Any = None) -> Examples:
    """The ``shots`` best examples of every row; fewer shots are the tail of these lists.

    Raises:
        UserError: if the pool is too small for ``shots``.
    """
    if shots == 0:
        return Examples(train=[[] for _ in data.train], eval=[[] for _ in data.eval], shots=0)
    retriever = build_retriever(job.spec.prompt.retriever, data.train, seed=job.spec.training.seed, encoder=encoder)
    return Examples(
        train=retriever.neighbours([row.query for row in data.train], shots),
        eval=retriever.neighbours([row.query for row in data.eval], shots),
        shots=shots,
    )


def render(
    job: PromptInternJob,
    template: CompressedTemplate,
    *,
    rows: Sequence[Row],
    neighbours: Sequence[Sequence[int]],
    shots: int,
    pool: Sequence[Row],
) -> list[str]:
    """The prompts of ``rows`` under ``template`` with ``shots`` examples each."""
    return [
        render_prompt(
            template,
            query=row.query,
            examples=[pool[i] for i in near[len(near) - shots :]],
            example_template=job.spec.prompt.example_template,
        )
        for row, near in zip(rows, neighbours, strict=True)
    ]


def stages_of(job: PromptInternJob) -> list[Stage]:
    """The job's stages."""
    return build_stages(job.spec.schedule, job.spec.training)


def max_tokens_of(job: PromptInternJob, model_config: Any) -> int:
    """Longest sequence in tokens: the job's, or else the model's.

    Raises:
        UserError: if the job asks for more than the model can hold.
    """
    context = context_length(model_config)
    wanted = job.spec.training.max_tokens
    if wanted and context and wanted > context:
        raise UserError.at("spec.training.maxTokens", f"is {wanted}; the base model holds {context} tokens")
    return wanted or context or DEFAULT_MAX_TOKENS


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The rows that fit, and how many did not."""

    data: Data
    examples: Examples


def fit_to_context(
    job: PromptInternJob,
    data: Data,
    examples: Examples,
    *,
    template: CompressedTemplate,
    encoder: PromptEncoder,
    max_tokens: int,
) -> Fitting:
    """Check every row's longest prompt (``template`` at rate 1 with all shots), and drop rows where the job says so.

    Nothing is ever truncated: a prompt whose end is missing teaches something else.

    Raises:
        UserError: naming every row that does not fit, or has no answer token.
    """
    pool = data.train
    room = max_tokens - job.spec.evaluation.max_new_tokens
    if room < 1:
        raise UserError.at(
            "spec.evaluation.maxNewTokens",
            f"is {job.spec.evaluation.max_new_tokens}; with at most {max_tokens} tokens a sequence no prompt fits",
        )
    prompts = render(job, template, rows=data.train, neighbours=examples.train, shots=examples.shots, pool=pool)
    long_train = [
        length_of(encoded).total > max_tokens
        for encoded in encoder.encode(
            prompts, [row.answer for row in data.train], wheres=[row.where for row in data.train]
        )
    ]
    prompts = render(job, template, rows=data.eval, neighbours=examples.eval, shots=examples.shots, pool=pool)
    long_eval = [len(ids) > room for ids in encoder.encode_prompts(prompts)]
    if not any(long_train) and not any(long_eval):
        return Fitting(data=data, examples=examples)
    if job.spec.data.on_too_long is OnProblem.ERROR:
        raise UserError(
            _too_long(data.train, long_train, f"{max_tokens} tokens with its answer")
            + _too_long(data.eval, long_eval, f"{room} tokens, which leaves room for maxNewTokens")
        )
    if all(long_train) or all(long_eval):
        raise UserError.at("spec.training.maxTokens", f"no row fits in {max_tokens} tokens")
    return _without(job, data, examples, long_train, long_eval)


def _too_long(rows: Sequence[Row], flags: Sequence[bool], limit: str) -> list[Problem]:
    return [
        Problem(
            where=row.where,
            message=f"has a prompt of more than {limit}; raise spec.training.maxTokens, use fewer shots, or set "
            "spec.data.onTooLong: Drop",
        )
        for row, flag in zip(rows, flags, strict=True)
        if flag
    ]


def _without(
    job: PromptInternJob,
    data: Data,
    examples: Examples,
    long_train: Sequence[bool],
    long_eval: Sequence[bool],
) -> Fitting:
    """The fitting rows only. A dropped training row is no longer an example either, so examples are found again."""
    kept = Data(
        train=[row for row, flag in zip(data.train, long_train, strict=True) if not flag],
        eval=[row for row, flag in zip(data.eval, long_eval, strict=True) if not flag],
        digests=data.digests,
        dropped={
            **data.dropped,
            **({"too long to train on": sum(long_train)} if any(long_train) else {}),
            **({"too long to evaluate": sum(long_eval)} if any(long_eval) else {}),
        },
        warnings=data.warnings,
    )
    return Fitting(data=kept, examples=retrieve_examples(job, kept, shots=examples.shots))


def length_of(encoded: Encoded) -> Length:
    """Token counts of one encoded row."""
    return Length(prompt=len(encoded.prompt_ids), answer=len(encoded.answer_ids))


def full_template(job: PromptInternJob, tokenizer: Any) -> CompressedTemplate:
    """The job's template at rate 1, which needs no model."""
    return uncompressed(parse_template(job.spec.prompt.template, job.spec.prompt.protect), tokenizer)
