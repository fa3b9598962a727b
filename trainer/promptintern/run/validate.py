"""Everything that can be known of a job without training it, all problems at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from promptintern_api import PromptInternJob
from promptintern_api.prompt import CompressorKind

from promptintern.compress import check_precomputed
from promptintern.errors import Problem, UserError
from promptintern.models import fetch_model, load_config, load_tokenizer
from promptintern.prompt.encode import PromptEncoder
from promptintern.run.inputs import (
    Data,
    fit_to_context,
    full_template,
    load_data,
    max_tokens_of,
    retrieve_examples,
    s3_options,
    stages_of,
)

T = TypeVar("T")


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
            self.problems += error.problems
            return None


def check_job(job: PromptInternJob) -> Findings:
    """Check data, model, prompts and schedule. Weights are not loaded and nothing is trained."""
    found = Findings()
    data = found.collect(lambda: load_data(job))
    model = found.collect(lambda: _load_model_facts(job))
    if job.spec.prompt.compressor.kind is CompressorKind.PRECOMPUTED:
        found.collect(lambda: check_precomputed(job.spec.prompt, [stage.rate for stage in stages_of(job)]))
    encoder = found.collect(lambda: PromptEncoder(model.tokenizer, chat=job.spec.prompt.chat)) if model else None
    if data is not None:
        found.warnings += data.warnings
    if data is not None and model is not None and encoder is not None:
        found.collect(lambda: _check_prompts(job, data, model, encoder, found))
    return found


@dataclass(frozen=True, kw_only=True)
class _ModelFacts:
    tokenizer: Any
    config: Any


def _load_model_facts(job: PromptInternJob) -> _ModelFacts:
    folder = fetch_model(job.spec.model.uri, s3=s3_options(job))
    return _ModelFacts(tokenizer=load_tokenizer(folder), config=load_config(folder))


def _check_prompts(
    job: PromptInternJob, data: Data, model: _ModelFacts, encoder: PromptEncoder, found: Findings
) -> None:
    stages = stages_of(job)
    shots = max(stage.shots for stage in stages)
    template = full_template(job, model.tokenizer)
    max_tokens = max_tokens_of(job, model.config)
    fitting = fit_to_context(
        job,
        data,
        retrieve_examples(job, data, shots=shots),
        template=template,
        encoder=encoder,
        max_tokens=max_tokens,
    )
    found.summary += [
        f"{job.metadata.name}: valid",
        f"rows: {len(fitting.data.train)} to train, {len(fitting.data.eval)} held out"
        + "".join(f", {count} {reason}" for reason, count in fitting.data.dropped.items()),
        f"stages: {len(stages)}, template rate {stages[0].rate:g} to {stages[-1].rate:g}, examples {shots} to 0",
        f"template: {template.full_tokens} tokens; longest sequence allowed: {max_tokens} tokens",
    ]
