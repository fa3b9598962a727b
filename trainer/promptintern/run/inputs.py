"""From a job to rows, examples and templates: everything that training and evaluation start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.data import OnProblem
from promptintern_api.prompt import CompressorKind

from promptintern.compress import CompressedTemplate, uncompressed
from promptintern.engine.packs import Length
from promptintern.errors import Problem, UserError
from promptintern.evaluate.generate import cut_at
from promptintern.models import context_length
from promptintern.prompt.encode import Encoded, PromptEncoder
from promptintern.prompt.render import render_prompt
from promptintern.prompt.template import parse_template
from promptintern.retrieve import build_retriever
from promptintern.rows.checks import check_rows
from promptintern.rows.load import load_rows
from promptintern.rows.types import Row
from promptintern.schedule import Stage, build_stages, full_prompt_shots
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
    if spec.train.uri == spec.eval.uri:
        raise UserError.at("spec.data.eval.uri", "is the training file; hold rows out that are not trained on")
    train = load_rows(spec.train, field="spec.data.train", s3=s3)
    held_out = load_rows(spec.eval, field="spec.data.eval", s3=s3)
    problems = [*train.problems, *held_out.problems]
    if problems:
        raise UserError(problems)
    checked = check_rows(train.rows, held_out.rows, on_leak=spec.on_leak)
    problems = [*_system_problems(train.system, held_out.system), *checked.problems]
    if problems:
        raise UserError(problems)
    return Data(
        train=list(checked.train),
        eval=list(held_out.rows),
        digests={"train": train.sha256, "eval": held_out.sha256},
        dropped={"leaked into eval": checked.dropped_leaks} if checked.dropped_leaks else {},
        warnings=[
            *train.warnings,
            *held_out.warnings,
            *_system_warnings(job, train.system or held_out.system),
            *checked.warnings,
        ],
    )


def _system_problems(train: str | None, held_out: str | None) -> list[Problem]:
    """A chat file's system message is a part of the prompt, so it cannot differ between the files."""
    if train is None or held_out is None or train == held_out:
        return []
    return [
        Problem(
            where="spec.data.eval.uri",
            message="has another system message than spec.data.train.uri; the prompt must be the same in all rows",
        )
    ]


def _system_warnings(job: PromptInternJob, system: str | None) -> list[str]:
    if not system or not system.strip() or system.strip() in job.spec.prompt.template:
        return []
    return [
        "the system message of the chat data is not sent: only what stands in spec.prompt.template is; copy it there "
        f"if it belongs to the prompt that you pay for today ({system.strip()!r:.60})"
    ]


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
class Shape:
    """Prompts of one template and so many examples."""

    template: CompressedTemplate
    shots: int


def shapes_to_fit(
    job: PromptInternJob, full: CompressedTemplate, by_stage: Sequence[CompressedTemplate]
) -> list[Shape]:
    """The shapes whose prompts may be the longest: the full prompt, and whatever the user wrote for the stages."""
    shapes = [Shape(template=full, shots=full_prompt_shots(job.spec.schedule))]
    if job.spec.prompt.compressor.kind is CompressorKind.PRECOMPUTED:
        shapes += [Shape(template=t, shots=s.shots) for t, s in zip(by_stage, stages_of(job), strict=True)]
    return shapes


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
    shapes: Sequence[Shape],
    encoder: PromptEncoder,
    max_tokens: int,
    embedder: Any = None,
) -> Fitting:
    """Check every row's prompts of all ``shapes``, and drop rows where the job says so.

    Nothing is ever truncated: a prompt whose end is missing teaches something else.

    Args:
        embedder: Of an Embedding retriever.

    Raises:
        UserError: naming every row that does not fit, or has no answer token.
    """
    room = max_tokens - job.spec.evaluation.max_new_tokens
    if room < 1:
        raise UserError.at(
            "spec.evaluation.maxNewTokens",
            f"is {job.spec.evaluation.max_new_tokens}; with at most {max_tokens} tokens a sequence no prompt fits",
        )
    drops = job.spec.data.on_too_long is OnProblem.DROP
    if drops and examples.shots:
        # Rows that are too long by themselves go first, lest they take along those that they are examples of.
        alone = [Shape(template=shape.template, shots=0) for shape in shapes]
        data = _without(data, *_beyond(job, data, examples, alone, encoder=encoder, max_tokens=max_tokens, room=room))
        _check_left(data, max_tokens)
        examples = retrieve_examples(job, data, shots=examples.shots, encoder=embedder)
    while True:
        long_train, long_eval = _beyond(job, data, examples, shapes, encoder=encoder, max_tokens=max_tokens, room=room)
        if not any(long_train) and not any(long_eval):
            return Fitting(data=data, examples=examples)
        if not drops:
            raise UserError(
                _too_long(data.train, long_train, f"{max_tokens} tokens with its answer")
                + _too_long(data.eval, long_eval, f"{room} tokens, which leaves room for maxNewTokens")
            )
        data = _without(data, long_train, long_eval)
        _check_left(data, max_tokens)
        # A dropped row is no longer an example either, so examples are found again, and may be longer than before.
        examples = retrieve_examples(job, data, shots=examples.shots, encoder=embedder)


def _check_left(data: Data, max_tokens: int) -> None:
    for kind, rows in (("training", data.train), ("held-out", data.eval)):
        if not rows:
            raise UserError.at("spec.training.maxTokens", f"no {kind} row fits in {max_tokens} tokens")


def _beyond(
    job: PromptInternJob,
    data: Data,
    examples: Examples,
    shapes: Sequence[Shape],
    *,
    encoder: PromptEncoder,
    max_tokens: int,
    room: int,
) -> tuple[list[bool], list[bool]]:
    """Which training rows are longer than ``max_tokens``, and which held-out rows longer than ``room``."""
    answers, wheres = [row.answer for row in data.train], [row.where for row in data.train]
    long_train, long_eval = [False] * len(data.train), [False] * len(data.eval)
    for shape in shapes:
        template, shots = shape.template, shape.shots
        prompts = render(job, template, rows=data.train, neighbours=examples.train, shots=shots, pool=data.train)
        for i, encoded in enumerate(encoder.encode(prompts, answers, wheres=wheres)):
            long_train[i] |= length_of(encoded).total > max_tokens
        prompts = render(job, template, rows=data.eval, neighbours=examples.eval, shots=shots, pool=data.train)
        for i, ids in enumerate(encoder.encode_prompts(prompts)):
            long_eval[i] |= len(ids) > room
    return long_train, long_eval


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


def _without(data: Data, long_train: Sequence[bool], long_eval: Sequence[bool]) -> Data:
    """The fitting rows only, the others counted."""
    dropped = dict(data.dropped)
    for reason, flags in (("too long to train on", long_train), ("too long to evaluate", long_eval)):
        if any(flags):
            dropped[reason] = dropped.get(reason, 0) + sum(flags)
    return Data(
        train=[row for row, flag in zip(data.train, long_train, strict=True) if not flag],
        eval=[row for row, flag in zip(data.eval, long_eval, strict=True) if not flag],
        digests=data.digests,
        dropped=dropped,
        warnings=data.warnings,
    )


def answer_warnings(job: PromptInternJob, data: Data, encoder: PromptEncoder) -> list[str]:
    """Held-out rows whose answers no arm can give, because generation ends before."""
    evaluation, rows = job.spec.evaluation, data.eval
    lengths = iter(encoder.answer_lengths([answer for row in rows for answer in row.answers]))
    fits = [[next(lengths) <= evaluation.max_new_tokens for _ in row.answers] for row in rows]
    survives = [[cut_at(answer, evaluation.stop) == answer for answer in row.answers] for row in rows]
    found = []
    for field, possible, why in (
        ("maxNewTokens", fits, f"have only answers longer than the {evaluation.max_new_tokens} tokens of"),
        ("stop", survives, "have only answers that hold a text of"),
    ):
        count = sum(not any(row) for row in possible)
        if count:
            found.append(
                f"{count} of {len(rows)} held-out rows {why} spec.evaluation.{field}, so no arm can get them right"
            )
    return found


def length_of(encoded: Encoded) -> Length:
    """Token counts of one encoded row."""
    return Length(prompt=len(encoded.prompt_ids), answer=len(encoded.answer_ids))


def full_template(job: PromptInternJob, tokenizer: Any) -> CompressedTemplate:
    """The job's template at rate 1, which needs no model."""
    return uncompressed(parse_template(job.spec.prompt.template, job.spec.prompt.protect), tokenizer)
