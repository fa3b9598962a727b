"""The inputs of training and evaluation that are derived from a job: rows, examples, templates, prompts and stages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from promptintern_api import PromptInternJob

from promptintern.compress import CompressedTemplate, uncompressed
from promptintern.engine.packing.planning import Length
from promptintern.errors import Problem, UserError
from promptintern.prompt.encode import Encoded
from promptintern.prompt.render import render_prompt
from promptintern.prompt.template import parse_template
from promptintern.retrieve import build_retriever
from promptintern.rows.checks import check_rows
from promptintern.rows.load import load_rows
from promptintern.rows.types import Row
from promptintern.schedule import Stage, build_stages
from promptintern.storage.options import S3Options


def s3_options(job: PromptInternJob) -> S3Options:
    """Return the options for connecting to the job's S3 server."""
    return S3Options.of(job.spec.storage)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The checked rows of a job."""

    train: list[Row]
    eval: list[Row]
    digests: dict[str, str]
    """The SHA-256 digest of each data file, by its role (``train`` or ``eval``)."""
    dropped: dict[str, int]
    """The number of dropped rows, by reason. Rows are dropped only if the job's settings allow it."""
    warnings: list[str]


def load_data(job: PromptInternJob) -> Data:
    """Load the training rows and the held-out rows of ``job``, and check both sets of rows.

    Raises:
        UserError: if a file or a row has problems; the error lists the problems of both files.
    """
    spec = job.spec.data
    s3 = s3_options(job)
    if spec.train.uri == spec.eval.uri:
        raise UserError.at(
            "spec.data.eval.uri", "is the training file; name a file of rows that are held out from training"
        )
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
            *_gpu_warnings(job),
            *checked.warnings,
        ],
    )


def _system_problems(train: str | None, held_out: str | None) -> list[Problem]:
    """Return a problem if the training rows and the held-out rows have different system messages.

    In chat data, the system message is part of the prompt, and all rows must have the same prompt.
    """
    if train is None or held_out is None or train == held_out:
        return []
    return [
        Problem(
            where="spec.data.eval.uri",
            message="has another system message than spec.data.train.uri; the prompt must be the same for all rows",
        )
    ]


def _gpu_warnings(job: PromptInternJob) -> list[str]:
    gpus = job.spec.compute.gpus_per_worker
    if gpus <= 1:
        return []
    return [
        f"spec.compute.gpusPerWorker is {gpus}, but a worker trains on one GPU and leaves the others idle; to use "
        "more GPUs, raise spec.compute.workers"
    ]


def _system_warnings(job: PromptInternJob, system: str | None) -> list[str]:
    if not system or not system.strip() or system.strip() in job.spec.prompt.template:
        return []
    return [
        "the system message of the chat data is not sent, because only spec.prompt.template is; copy it into the "
        f"template if it is part of the prompt that you send today ({system.strip()!r:.60})"
    ]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples for the prompt of each row, as indices of training rows, with the best example last."""

    train: list[list[int]]
    eval: list[list[int]]
    shots: int


def retrieve_examples(job: PromptInternJob, data: Data, *, shots: int, encoder: Any = None) -> Examples:
    """Return the ``shots`` best examples for the prompt of each row.

    The best example comes last, so a prompt with fewer shots uses the end of the row's list.

    Args:
        encoder: The encoder of an Embedding retriever; None for other retrievers.

    Raises:
        UserError: if there are too few training rows for ``shots`` examples.
    """
    if shots == 0:
        return Examples(train=[[] for _ in data.train], eval=[[] for _ in data.eval], shots=0)
    retriever = build_retriever(job.spec.prompt.retriever, data.train, seed=job.spec.training.seed, encoder=encoder)
    return Examples(
        train=retriever.neighbours([row.query for row in data.train], shots),
        eval=retriever.neighbours([row.query for row in data.eval], shots),
        shots=shots,
    )


def render_prompts(
    job: PromptInternJob,
    template: CompressedTemplate,
    *,
    rows: Sequence[Row],
    neighbours: Sequence[Sequence[int]],
    shots: int,
    pool: Sequence[Row],
) -> Iterator[str]:
    """Return an iterator over the prompts of ``rows``, rendered with ``template`` and ``shots`` examples.

    Args:
        neighbours: At least ``shots`` examples for each row, as indices into ``pool``, with the best example last.
    """
    return (
        render_prompt(
            template,
            query=row.query,
            examples=[pool[i] for i in neighbour_indices[len(neighbour_indices) - shots :]],
            example_template=job.spec.prompt.example_template,
        )
        for row, neighbour_indices in zip(rows, neighbours, strict=True)
    )


def stages_of(job: PromptInternJob) -> list[Stage]:
    """Return the stages that the schedule of ``job`` defines."""
    return build_stages(job.spec.schedule, job.spec.training)


def length_of(encoded: Encoded) -> Length:
    """Return the numbers of prompt and answer tokens of an encoded row."""
    return Length(prompt=len(encoded.prompt_ids), answer=len(encoded.answer_ids))


def full_template(job: PromptInternJob, tokenizer: Any) -> CompressedTemplate:
    """Return the job's template at rate 1, which is uncompressed and therefore requires no model."""
    return uncompressed(parse_template(job.spec.prompt.template, job.spec.prompt.protect), tokenizer)
