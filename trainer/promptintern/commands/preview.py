"""Previews a job: computes the token counts of every stage, and the prompt of one training row at every stage."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from promptintern_api import PromptInternJob
from promptintern_api.compute import Device
from promptintern_api.prompt import CompressorKind

from promptintern.compress import CompressedTemplate
from promptintern.errors import UserError
from promptintern.models.fetch import fetch_model
from promptintern.models.load import DTYPES, load_base_model, load_config, load_tokenizer, vocabulary_size
from promptintern.pipeline.context_fit import fit_rows
from promptintern.pipeline.events import Observer
from promptintern.pipeline.inputs import Data, Examples, load_data, render_prompts, s3_options, stages_of
from promptintern.pipeline.session import compress_all, load_embedder, open_session
from promptintern.pipeline.teaching.self_study import describe, draw_queries, share_fault, with_queries
from promptintern.pipeline.teaching.written import SelfStudy
from promptintern.pipeline.tracks import describe_track
from promptintern.prompt.encode import Encoded, PromptEncoder
from promptintern.rows.types import Query
from promptintern.stage_record import TrackPlan

SHOWN_QUERIES = 20
"""The largest number of written queries that a preview shows."""
DRAWN_QUERIES = 40
"""The number of queries that the base model writes for a preview."""


@dataclass(frozen=True, kw_only=True)
class StagePreview:
    """The figures of a stage before training, and the prompt of one row."""

    index: int
    plan: TrackPlan
    prompt: str
    """The prompt of the previewed row at this stage."""


@dataclass(frozen=True, kw_only=True)
class WrittenPreview:
    """Queries as the base model writes them when the run begins."""

    count: int
    """The number of queries that the run asks for."""
    queries: Sequence[str]
    summary: str
    """A sentence that says how many of the drawn queries are valid and distinct."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The figures of a job before training, and the prompt of one training row at every stage."""

    name: str
    rows: int
    """The number of training rows, including the queries that the teacher is to answer."""
    queries: int
    """The number of queries that the teacher is to answer, without those that the base model is to write."""
    written: WrittenPreview | None
    """Queries as the base model writes them; None if it writes none."""
    where: str
    """The file and the line of the previewed row, such as ``train.jsonl:3``."""
    answer: str | None
    """The answer of the previewed row; None if the teacher is to answer it."""
    stages: list[StagePreview]
    max_stages: int | None
    """The largest number of stages that an adaptive schedule chooses; None if all stages are trained."""
    warnings: list[str]
    dropped: dict[str, int]
    """The number of rows that training or evaluation leaves out, by reason."""


def preview(job: PromptInternJob, *, row: int, observer: Observer) -> Preview:
    """Return the preview of ``job``, with templates that are compressed as in training.

    Args:
        row: The index of the row whose prompts are shown, from 0. The queries without answers follow the training
            rows.
        observer: A receiver of the progress while the base model writes queries.

    Raises:
        UserError: if anything is wrong with the job or its data, or if there is no training row with the index ``row``.
    """
    data = load_data(job)
    inputs = _inputs_with_written_queries(job, data, observer) if job.spec.data.generate else _inputs(job, data)
    encoder, train = inputs.encoder, inputs.data.train
    rows: list[Query] = [*train, *inputs.data.queries]
    neighbours = [*inputs.examples.train, *inputs.examples.queries]
    if not rows:
        raise UserError.at("spec.data.generate", "there is no row to show: " + "; ".join(inputs.warnings))
    if row >= len(rows):
        raise UserError.at("--row", f"is {row}, but the training rows are numbered from 0 to {len(rows) - 1}")
    previews = []
    for stage, template in zip(stages_of(job), inputs.templates, strict=True):
        prompts = list(render_prompts(job, template, rows=rows, neighbours=neighbours, shots=stage.shots, pool=train))
        encoded = encoder.encode(prompts[: len(train)], [r.answer for r in train])
        encoded += [
            Encoded(prompt_ids=memoryview(ids), answer_ids=memoryview(array("i")))
            for ids in encoder.encode_prompts(prompts[len(train) :])
        ]
        plan = describe_track(template, shots=stage.shots, epochs=stage.epochs, rows=encoded)
        previews.append(StagePreview(index=stage.index, plan=plan, prompt=prompts[row]))
    return Preview(
        name=job.metadata.name,
        rows=len(rows),
        queries=sum(not query.is_written for query in inputs.data.queries),
        written=inputs.written,
        where=rows[row].where,
        answer=train[row].answer if row < len(train) else None,
        stages=previews,
        max_stages=job.spec.schedule.num_stages if job.spec.schedule.is_adaptive else None,
        warnings=[*data.warnings, *inputs.warnings],
        dropped=inputs.data.dropped,
    )


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What the previewed prompts are made of."""

    encoder: PromptEncoder
    templates: Sequence[CompressedTemplate]
    """The templates of the stages."""
    data: Data
    examples: Examples
    warnings: Sequence[str]
    written: WrittenPreview | None = None


def _inputs(job: PromptInternJob, data: Data) -> _Inputs:
    folder = fetch_model(job.spec.model.uri, s3=s3_options(job))
    tokenizer = load_tokenizer(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = (
        load_base_model(folder, dtype=DTYPES[job.spec.model.dtype], device=device)
        if job.spec.prompt.compressor.kind is CompressorKind.SELF_INFORMATION
        else None
    )
    full, *templates = compress_all(job, stages_of(job), tokenizer=tokenizer, model=model, folder=folder)
    encoder = PromptEncoder(tokenizer, chat=job.spec.prompt.chat, vocabulary=vocabulary_size(load_config(folder)))
    fitting = fit_rows(
        job,
        data,
        full=full,
        by_stage=templates,
        encoder=encoder,
        embedder=load_embedder(job, device),
        model_config=load_config(folder),
        needs_training_rows=True,
    )
    return _Inputs(
        encoder=encoder,
        templates=templates,
        data=fitting.data,
        examples=fitting.examples,
        warnings=fitting.warnings,
    )


def _inputs_with_written_queries(job: PromptInternJob, data: Data, observer: Observer) -> _Inputs:
    """Return the inputs with queries that the base model writes as in a run. They are not stored."""
    assert job.spec.data.generate is not None
    compute = job.spec.compute.model_copy(update={"device": Device.AUTO, "gpus_per_worker": 0})
    session = open_session(job.model_copy(update={"spec": job.spec.model_copy(update={"compute": compute})}), data)
    study = SelfStudy()
    study.add(draw_queries(session, 0, DRAWN_QUERIES, study, observer=observer))
    fault = share_fault(study, job.spec.data.generate)
    session = with_queries(session, study) if study.queries else session
    return _Inputs(
        encoder=session.encoder,
        templates=session.templates,
        data=session.data,
        examples=session.examples,
        warnings=[*session.warnings, *([f"a run may be refused: {fault}"] if fault else [])],
        written=WrittenPreview(
            count=job.spec.data.generate.count, queries=study.queries[:SHOWN_QUERIES], summary=describe(study)
        ),
    )
