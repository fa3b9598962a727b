"""Previews a job: computes the token counts of every stage, and the prompt of one training row at every stage."""

from array import array
from dataclasses import dataclass

import torch
from promptintern_api import PromptInternJob
from promptintern_api.prompt import CompressorKind

from promptintern.errors import UserError
from promptintern.models import fetch_model, load_base_model, load_config, load_tokenizer
from promptintern.pipeline.context_fit import fit_rows
from promptintern.pipeline.inputs import load_data, render_prompts, s3_options, stages_of
from promptintern.pipeline.session import DTYPES, compress_all, load_embedder
from promptintern.pipeline.tracks import describe_track
from promptintern.prompt.encode import Encoded, PromptEncoder
from promptintern.rows.types import Query
from promptintern.stage_record import TrackPlan


@dataclass(frozen=True, kw_only=True)
class StagePreview:
    """The figures of a stage before training, and the prompt of one row."""

    index: int
    plan: TrackPlan
    prompt: str
    """The prompt of the previewed row at this stage."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The figures of a job before training, and the prompt of one training row at every stage."""

    name: str
    rows: int
    """The number of training rows, including the queries that the teacher is to answer."""
    queries: int
    """The number of queries that the teacher is to answer."""
    where: str
    """The file and the line of the previewed row, such as ``train.jsonl:3``."""
    answer: str | None
    """The answer of the previewed row; None if the teacher is to answer it."""
    stages: list[StagePreview]
    warnings: list[str]
    dropped: dict[str, int]
    """The number of rows that training or evaluation leaves out, by reason."""


def preview(job: PromptInternJob, *, row: int) -> Preview:
    """Return the preview of ``job``, with templates that are compressed as in training.

    Args:
        row: The index of the row whose prompts are shown, from 0. The queries without answers follow the training
            rows.

    Raises:
        UserError: if anything is wrong with the job or its data, or if there is no training row with the index ``row``.
    """
    data = load_data(job)
    folder = fetch_model(job.spec.model.uri, s3=s3_options(job))
    tokenizer = load_tokenizer(folder)
    config = load_config(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = (
        load_base_model(folder, dtype=DTYPES[job.spec.model.dtype], device=device)
        if job.spec.prompt.compressor.kind is CompressorKind.SELF_INFORMATION
        else None
    )
    stages = stages_of(job)
    full, *templates = compress_all(job, stages, tokenizer=tokenizer, model=model, folder=folder)
    encoder = PromptEncoder(tokenizer, chat=job.spec.prompt.chat)
    fitting_rows = fit_rows(
        job,
        data,
        full=full,
        by_stage=templates,
        encoder=encoder,
        embedder=load_embedder(job, device),
        model_config=config,
    )
    train = fitting_rows.data.train
    rows: list[Query] = [*train, *fitting_rows.data.queries]
    neighbours = [*fitting_rows.examples.train, *fitting_rows.examples.queries]
    if row >= len(rows):
        raise UserError.at("--row", f"is {row}, but the training rows are numbered from 0 to {len(rows) - 1}")
    previews = []
    for stage, template in zip(stages, templates, strict=True):
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
        queries=len(rows) - len(train),
        where=rows[row].where,
        answer=train[row].answer if row < len(train) else None,
        stages=previews,
        warnings=[*data.warnings, *fitting_rows.warnings],
        dropped=fitting_rows.data.dropped,
    )
