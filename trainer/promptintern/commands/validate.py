"""Everything that can be known of a job without training it, all problems at once."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from promptintern_api import PromptInternJob
from promptintern_api.prompt import CompressorKind, RetrieverKind

from promptintern.compress import check_precomputed
from promptintern.compress.classifier import FIELD as CLASSIFIER_FIELD
from promptintern.compress.classifier import load_classifier
from promptintern.engine.adapter import attach_lora
from promptintern.errors import Problem, UserError
from promptintern.models import empty_model, fetch_model, load_config, load_tokenizer
from promptintern.pipeline.fit import fit_rows
from promptintern.pipeline.inputs import (
    Data,
    full_template,
    load_data,
    s3_options,
    stages_of,
)
from promptintern.pipeline.session import compress_all, embedder
from promptintern.prompt.encode import PromptEncoder
from promptintern.run.driver import open_run

T = TypeVar("T")
_BRACED = re.compile(r"\{[a-z][a-z_]*\}")


@dataclass(kw_only=True)
class Findings:
    """What a check of a job found."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)

    def collect(self, check: Callable[[], T]) -> T | None:
        """The result of ``check``; None if it found problems, which are kept."""
        try:
            return check()
        except UserError as error:
            self.problems += [problem for problem in error.problems if problem not in self.problems]
            return None


def check_job(job: PromptInternJob, *, storage: bool = False) -> Findings:
    """Check data, model, prompts and schedule. The base model's weights are not loaded, and nothing is trained.

    Args:
        storage: Also write, read and remove a file where the run will be stored.
    """
    found = Findings()
    if storage and (place := job.spec.storage) is not None:
        found.collect(lambda: open_run(job, place.uri).probe())
    data = found.collect(lambda: load_data(job))
    model = found.collect(lambda: _load_model_facts(job))
    found.collect(lambda: check_precomputed(job.spec.prompt, stages_of(job)))
    if job.spec.prompt.compressor.kind is CompressorKind.LLMLINGUA2:
        found.collect(lambda: _check_classifier(job))
    if model:
        found.collect(lambda: attach_lora(empty_model(model.config), job.spec.training.lora, seed=0))
    embeds = found.collect(lambda: embedder(job, torch.device("cpu")))
    encoder = found.collect(lambda: PromptEncoder(model.tokenizer, chat=job.spec.prompt.chat)) if model else None
    if data is not None:
        found.warnings += data.warnings
    found.warnings += _unfilled(job)
    ready = not found.problems or job.spec.prompt.retriever.kind is not RetrieverKind.EMBEDDING
    if data is not None and model is not None and encoder is not None and ready:
        found.collect(lambda: _check_prompts(job, data, model, encoder, embeds, found))
    return found


def _unfilled(job: PromptInternJob) -> list[str]:
    """Words in braces that look like placeholders and are none."""
    prompt = job.spec.prompt
    texts = {"template": prompt.template, "exampleTemplate": prompt.example_template}
    return [
        f"spec.prompt.{name} holds {word}, which is no placeholder and is sent as it stands"
        for name, text in texts.items()
        for word in dict.fromkeys(_BRACED.findall(text))
        if word not in ("{query}", "{examples}", "{answer}")
    ]


def _check_classifier(job: PromptInternJob) -> None:
    uri = job.spec.prompt.compressor.model_uri
    assert uri is not None
    load_classifier(fetch_model(uri, s3=s3_options(job), field=CLASSIFIER_FIELD).path)


@dataclass(frozen=True, kw_only=True)
class _ModelFacts:
    tokenizer: Any
    config: Any


def _load_model_facts(job: PromptInternJob) -> _ModelFacts:
    folder = fetch_model(job.spec.model.uri, s3=s3_options(job))
    return _ModelFacts(tokenizer=load_tokenizer(folder), config=load_config(folder))


def _check_prompts(
    job: PromptInternJob, data: Data, model: _ModelFacts, encoder: PromptEncoder, embeds: Any, found: Findings
) -> None:
    stages = stages_of(job)
    template = full_template(job, model.tokenizer)
    # Rates between 0 and 1 need the base model's weights, unless the user wrote their templates.
    precomputed = job.spec.prompt.compressor.kind is CompressorKind.PRECOMPUTED
    by_stage = compress_all(job, stages, tokenizer=model.tokenizer, model=None)[1:] if precomputed else []
    fitting = fit_rows(
        job,
        data,
        full=template,
        by_stage=by_stage,
        encoder=encoder,
        embedder=embeds,
        model_config=model.config,
    )
    found.warnings += fitting.warnings
    found.summary += [
        f"{job.metadata.name}: valid",
        f"rows: {len(fitting.data.train)} to train, {len(fitting.data.eval)} held out"
        + "".join(f", {count} {reason}" for reason, count in fitting.data.dropped.items()),
        f"stages: {len(stages)}, template rate {stages[0].rate:g} to {stages[-1].rate:g}, "
        f"examples {fitting.examples.shots} to 0",
        f"template: {template.full_tokens} tokens; longest sequence allowed: {fitting.max_tokens} tokens",
    ]
