"""The inputs of training and evaluation that are derived from a job: rows, examples, templates, prompts and stages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptintern_api import PromptInternJob
from promptintern_api.data import DataSource, OnProblem
from promptintern_api.evaluation import Reference
from promptintern_api.metrics import Metric

from promptintern.compress import CompressedTemplate, uncompressed
from promptintern.engine.packing.planning import Length
from promptintern.errors import Problem, UserError
from promptintern.prompt.encode import Encoded
from promptintern.prompt.render import render_prompt
from promptintern.prompt.template import parse_template
from promptintern.retrieve import build_retriever
from promptintern.rows.checks import CheckedQueries, check_queries, check_rows
from promptintern.rows.load import LoadedRows, load_queries, load_rows
from promptintern.rows.types import Query, Row
from promptintern.schedule import Stage, build_stages
from promptintern.storage.options import S3Options

QUERIES_DROPPED = "queries:"
"""The beginning of the reasons for which queries without answers are dropped."""


FILE_FIELDS = {
    "train": "spec.data.train",
    "queries": "spec.data.queries",
    "eval": "spec.data.eval",
    "retention": "spec.evaluation.retention.data",
}
"""The field of the job that names a data file, by the role of the file."""


def s3_options(job: PromptInternJob) -> S3Options:
    """Return the options for connecting to the job's S3 server."""
    return S3Options.of(job.spec.storage)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The checked rows of a job."""

    train: list[Row]
    """The training rows; empty if the job learns only from queries without answers."""
    queries: list[Query]
    """The queries without answers, which the teacher answers; empty if the job has none."""
    eval: Sequence[Query]
    """The held-out rows. They have no answers if the job compares all arms with FullPrompt."""
    retention: Sequence[Query]
    """The queries that are asked under another prompt; empty if the job has none."""
    digests: dict[str, str]
    """The SHA-256 digest of each data file, by its role (``train``, ``queries``, ``eval`` or ``retention``)."""
    dropped: dict[str, int]
    """The number of dropped rows, by reason. Rows are dropped only if the job's settings allow it."""
    warnings: list[str]


def load_data(job: PromptInternJob) -> Data:
    """Load the training rows, the queries without answers and the held-out rows of ``job``, and check all of them.

    Raises:
        UserError: if a file or a row has problems; the error lists the problems of all files.
    """
    spec = job.spec.data
    s3 = s3_options(job)
    if spec.train is not None and _is_same(spec.train, spec.eval):
        raise UserError.at(
            "spec.data.eval.uri", "is the training file; name a file of rows that are held out from training"
        )
    if spec.queries is not None and _is_same(spec.queries, spec.eval) and spec.on_leak is OnProblem.ERROR:
        raise UserError.at(
            "spec.data.eval.uri",
            "is the file of the queries; name a file of held-out rows, or set spec.data.onLeak: Drop to leave the "
            "held-out rows out of the queries",
        )
    train = load_rows(spec.train, field=FILE_FIELDS["train"], s3=s3) if spec.train else _NO_ROWS
    queries = load_queries(spec.queries, field=FILE_FIELDS["queries"], s3=s3) if spec.queries else _NO_QUERIES
    held_out = _load_held_out(job)
    retention = _load_retention(job)
    problems = [*train.problems, *queries.problems, *held_out.problems, *retention.problems]
    if problems:
        raise UserError(problems)
    checked = check_rows(train.rows, held_out.rows, on_leak=spec.on_leak)
    checked_queries = check_queries(queries.rows, checked.train, held_out.rows, on_leak=spec.on_leak)
    systems = {"train": train.system, "queries": queries.system, "eval": held_out.system}
    problems = [*_system_problems(systems), *checked.problems, *checked_queries.problems, *_untested(job, held_out)]
    if problems:
        raise UserError(problems)
    return Data(
        train=list(checked.train),
        queries=checked_queries.queries,
        eval=list(held_out.rows),
        retention=list(retention.rows),
        digests={
            role: file.sha256
            for role, file in (
                ("train", train),
                ("queries", queries),
                ("eval", held_out),
                ("retention", retention),
            )
            if file.sha256
        },
        dropped=_dropped(checked.dropped_leaks, checked_queries),
        warnings=[
            *train.warnings,
            *queries.warnings,
            *held_out.warnings,
            *retention.warnings,
            *_system_warnings(job, next((system for system in systems.values() if system), None)),
            *_protect_warnings(job),
            *checked.warnings,
        ],
    )


def _is_same(source: DataSource, other: DataSource) -> bool:
    return (source.uri, source.split) == (other.uri, other.split)


def _load_held_out(job: PromptInternJob) -> LoadedRows[Row] | LoadedRows[Query]:
    """Load the held-out rows, without their answers if the job compares all arms with FullPrompt."""
    source, s3, field = job.spec.data.eval, s3_options(job), FILE_FIELDS["eval"]
    if job.spec.evaluation.reference is Reference.FULL_PROMPT:
        return load_queries(source, field=field, s3=s3)
    return load_rows(source, field=field, s3=s3)


def _untested(job: PromptInternJob, held_out: LoadedRows[Row] | LoadedRows[Query]) -> list[Problem]:
    """Return a problem for each held-out row without tests if the job counts the programs that pass theirs."""
    if Metric.PASS_AT_1 not in job.spec.evaluation.metrics:
        return []
    column = job.spec.data.eval.columns.tests
    return [
        Problem(where=row.where, message=f"has no tests in column {column!r}, which the metric PassAt1 needs")
        for row in held_out.rows
        if isinstance(row, Row) and not row.tests
    ]


def _load_retention(job: PromptInternJob) -> LoadedRows[Query]:
    """Load the queries that are asked under another prompt, if the job has any."""
    retention = job.spec.evaluation.retention
    if retention is None or retention.data is None:
        return _NO_QUERIES
    return load_queries(retention.data, field=FILE_FIELDS["retention"], s3=s3_options(job))


_NO_ROWS: LoadedRows[Row] = LoadedRows(rows=[], sha256="", problems=[])
_NO_QUERIES: LoadedRows[Query] = LoadedRows(rows=[], sha256="", problems=[])


def _dropped(leaks: int, queries: CheckedQueries) -> dict[str, int]:
    """Return the number of dropped rows by reason, without reasons for which no row was dropped."""
    counts = {
        "leaked into eval": leaks,
        f"{QUERIES_DROPPED} leaked into eval": queries.dropped_leaks,
        f"{QUERIES_DROPPED} repeated": queries.dropped_repeats,
    }
    return {reason: count for reason, count in counts.items() if count}


def _system_problems(systems: Mapping[str, str | None]) -> list[Problem]:
    """Return a problem for each file whose system message differs from that of an earlier file.

    In chat data, the system message is part of the prompt, and all rows must have the same prompt.

    Args:
        systems: The system message of each file by its role, or None for a file that has none.
    """
    (first, expected), *others = [*((r, s) for r, s in systems.items() if s is not None), ("", None)]
    return [
        Problem(
            where=f"spec.data.{role}.uri",
            message=f"has another system message than spec.data.{first}.uri; the prompt must be the same for all rows",
        )
        for role, system in others
        if system is not None and system != expected
    ]


def _protect_warnings(job: PromptInternJob) -> list[str]:
    """Return a warning for each protected text that occurs several times in the template, and is kept everywhere."""
    counts = [job.spec.prompt.template.count(span) for span in job.spec.prompt.protect]
    return [
        f"spec.prompt.protect[{index}] ({span!r:.60}) occurs {count} times in the template and is kept at each of "
        "them, even at rate 0; if only one of them is meant, write the others differently or make the protected text "
        "longer"
        for index, (span, count) in enumerate(zip(job.spec.prompt.protect, counts, strict=True))
        if count > 1
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
    queries: list[list[int]]
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
        return Examples(
            train=[[] for _ in data.train], queries=[[] for _ in data.queries], eval=[[] for _ in data.eval], shots=0
        )
    retriever = build_retriever(job.spec.prompt.retriever, data.train, seed=job.spec.training.seed, encoder=encoder)
    return Examples(
        train=retriever.neighbours([row.query for row in data.train], shots),
        queries=retriever.neighbours([query.query for query in data.queries], shots),
        eval=retriever.neighbours([row.query for row in data.eval], shots),
        shots=shots,
    )


def render_prompts(
    job: PromptInternJob,
    template: CompressedTemplate,
    *,
    rows: Sequence[Query],
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
