"""Checks everything about a job that can be checked without training, and lists all problems at once."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from promptintern_api import PromptInternJob
from promptintern_api.compute import Device
from promptintern_api.evaluation import AnswerEngine
from promptintern_api.prompt import CompressorKind, RetrieverKind

from promptintern.advice import is_in_job
from promptintern.answering.vllm.environment import RANKS, check_vllm_can_serve, find_vllm
from promptintern.compress import check_precomputed
from promptintern.compress.classifier import FIELD as CLASSIFIER_FIELD
from promptintern.compress.classifier import load_classifier
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.errors import Problem, UserError
from promptintern.models.compare import check_tensors
from promptintern.models.describe import described_model
from promptintern.models.fetch import FIELD, fetch_model
from promptintern.models.load import (
    check_generation_config,
    check_vocabulary,
    custom_code_warnings,
    empty_model,
    load_config,
    load_tokenizer,
    vocabulary_size,
)
from promptintern.models.weights import TensorHeader, read_headers
from promptintern.pipeline.context_fit import fit_rows
from promptintern.pipeline.evaluation.judging import check_judges
from promptintern.pipeline.evaluation.retention import fitting_prompts
from promptintern.pipeline.inputs import (
    Data,
    full_template,
    load_data,
    s3_options,
    stages_of,
)
from promptintern.pipeline.session import compress_all, load_embedder
from promptintern.pipeline.teaching.settings import teacher_of, top_k_of
from promptintern.prompt.encode import PromptEncoder
from promptintern.rows.types import Query
from promptintern.run.driver import open_run
from promptintern.uris import display_uri

T = TypeVar("T")
_BRACED = re.compile(r"\{[a-z][a-z_]*\}")


@dataclass(kw_only=True)
class Findings:
    """The problems and warnings that a check of a job found, and a summary of the job."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)

    def collect(self, check: Callable[[], T]) -> T | None:
        """Return the result of ``check``. If it raises a ``UserError``, record the error's problems and return None."""
        try:
            return check()
        except UserError as error:
            self.problems += [problem for problem in error.problems if problem not in self.problems]
            return None


def check_job(job: PromptInternJob, *, storage: bool = False) -> Findings:
    """Check the data, model, prompts and schedule of ``job``, without training or loading the base model's weights.

    Args:
        storage: Whether to check the job's storage too, by writing, reading and removing a file in the run's folder.
    """
    findings = Findings()
    if storage and (storage_spec := job.spec.storage) is not None:
        findings.collect(lambda: open_run(job, storage_spec.uri).probe())
    data = findings.collect(lambda: load_data(job))
    findings.collect(lambda: check_judges(job.spec.evaluation, data.eval if data else []))
    model = findings.collect(lambda: _load_tokenizer_and_config(job))
    findings.collect(lambda: check_precomputed(job.spec.prompt, stages_of(job)))
    if job.spec.prompt.compressor.kind is CompressorKind.LLMLINGUA2:
        findings.collect(lambda: _check_classifier(job))
    if model:
        findings.warnings += model.warnings
    if model and (base := findings.collect(lambda: empty_model(model.config))) is not None:
        where = display_uri(job.spec.model.uri)
        findings.collect(lambda: check_tensors(base, model.headers, where=where, field=FIELD))
        adapter = findings.collect(lambda: attach_lora(base, job.spec.training.lora, seed=0))
        if adapter is not None and job.spec.evaluation.engine is AnswerEngine.VLLM:
            findings.collect(lambda: _check_engine(job, adapter))
    embedder = findings.collect(lambda: load_embedder(job, torch.device("cpu")))
    encoder = findings.collect(lambda: _encoder(job, model)) if model else None
    if model and (teacher := teacher_of(job)):
        findings.collect(lambda: top_k_of(teacher, model.config))
    if data is not None:
        findings.warnings += data.warnings
    findings.warnings += [*_placeholder_warnings(job), *_rank_warnings(job)]
    is_retriever_valid = not findings.problems or job.spec.prompt.retriever.kind is not RetrieverKind.EMBEDDING
    if data is not None and model is not None and encoder is not None and is_retriever_valid:
        findings.collect(lambda: _check_prompts(job, data, model, encoder, embedder, findings))
    return findings


def _placeholder_warnings(job: PromptInternJob) -> list[str]:
    """Return a warning for each word in braces, in the prompt's texts, that looks like a placeholder but is not one."""
    prompt = job.spec.prompt
    texts = {"prompt.template": prompt.template, "prompt.exampleTemplate": prompt.example_template}
    if (retention := job.spec.evaluation.retention) and retention.template:
        texts["evaluation.retention.template"] = retention.template
    return [
        f"spec.{name} contains {word}, which is not a placeholder and is sent literally"
        for name, text in texts.items()
        for word in dict.fromkeys(_BRACED.findall(text))
        if word not in ("{query}", "{examples}", "{answer}")
    ]


def _encoder(job: PromptInternJob, found: "_TokenizerAndConfig") -> PromptEncoder:
    return PromptEncoder(found.tokenizer, chat=job.spec.prompt.chat, vocabulary=vocabulary_size(found.config))


def _check_engine(job: PromptInternJob, adapter: Adapter) -> None:
    compute = job.spec.compute
    on_gpu = compute.device is Device.CUDA or compute.gpus_per_worker > 0
    check_vllm_can_serve(adapter, dtype=job.spec.model.dtype, on_gpu=on_gpu)
    if is_in_job():  # elsewhere, the job may be meant for a cluster
        find_vllm()


def _rank_warnings(job: PromptInternJob) -> list[str]:
    rank = job.spec.training.lora.r
    if rank <= RANKS[-1] or job.spec.evaluation.engine is AnswerEngine.VLLM:
        return []
    return [
        f"spec.training.lora.r is {rank}, but vLLM serves adapters of a rank up to {RANKS[-1]}; a larger adapter "
        "has to be merged into the base model (promptintern export --merged)"
    ]


def _check_room_for_written_queries(job: PromptInternJob, template_tokens: int, max_tokens: int) -> None:
    generate = job.spec.data.generate
    if generate is not None and template_tokens + generate.max_new_tokens > max_tokens:
        raise UserError.at(
            "spec.data.generate.maxNewTokens",
            f"is {generate.max_new_tokens}, but the template has {template_tokens} tokens and a sequence may have "
            f"{max_tokens}; lower it, shorten the template, or raise training.maxTokens",
        )


def _check_classifier(job: PromptInternJob) -> None:
    uri = job.spec.prompt.compressor.model_uri
    assert uri is not None
    load_classifier(fetch_model(uri, s3=s3_options(job), field=CLASSIFIER_FIELD).path)


@dataclass(frozen=True, kw_only=True)
class _TokenizerAndConfig:
    tokenizer: Any
    config: Any
    headers: dict[str, TensorHeader]
    """What the files with weights say about each tensor, by name."""
    warnings: list[str]


def _load_tokenizer_and_config(job: PromptInternJob) -> _TokenizerAndConfig:
    with described_model(job.spec.model.uri, s3=s3_options(job)) as folder:
        config = load_config(folder)
        check_generation_config(folder)
        found = _TokenizerAndConfig(
            tokenizer=load_tokenizer(folder),
            config=config,
            headers=read_headers(folder.path, FIELD),
            warnings=custom_code_warnings(folder, config),
        )
    check_vocabulary(found.tokenizer, found.config)
    return found


def _counts(job: PromptInternJob, data: Data) -> str:
    """Return the numbers of rows in words; files that the job does not have are left out."""
    counts: dict[str, Sequence[Query]] = {
        "training rows": data.train,
        "queries without answers": data.queries,
        "held-out rows": data.eval,
    }
    words = [f"{len(rows)} {name}" for name, rows in counts.items() if rows]
    if job.spec.data.generate is not None:
        words.insert(-1, f"{job.spec.data.generate.count} queries that the base model will write")
    return ", ".join(words)


def _check_prompts(
    job: PromptInternJob,
    data: Data,
    model: _TokenizerAndConfig,
    encoder: PromptEncoder,
    embedder: Any,
    findings: Findings,
) -> None:
    stages = stages_of(job)
    template = full_template(job, model.tokenizer)
    # Templates at rates between 0 and 1 need the base model's weights, unless the user wrote these templates.
    precomputed = job.spec.prompt.compressor.kind is CompressorKind.PRECOMPUTED
    by_stage = compress_all(job, stages, tokenizer=model.tokenizer, model=None)[1:] if precomputed else []
    fitting_rows = fit_rows(
        job,
        data,
        full=template,
        by_stage=by_stage,
        encoder=encoder,
        embedder=embedder,
        model_config=model.config,
        needs_training_rows=job.spec.data.generate is None,
    )
    findings.collect(lambda: fitting_prompts(job, data, encoder, max_tokens=fitting_rows.max_tokens))
    findings.collect(lambda: _check_room_for_written_queries(job, template.full_tokens, fitting_rows.max_tokens))
    findings.warnings += fitting_rows.warnings
    findings.summary += [
        f"the job {job.metadata.name} is valid",
        f"data: {_counts(job, fitting_rows.data)}"
        + "".join(f", {count} dropped ({reason})" for reason, count in fitting_rows.data.dropped.items()),
        f"schedule: {_schedule(job)}; the template rate goes from {stages[0].rate:g} to {stages[-1].rate:g}, the "
        f"number of examples from {fitting_rows.examples.shots} to 0",
        f"length: the template has {template.full_tokens} tokens; a sequence may have {fitting_rows.max_tokens} tokens",
    ]


def _schedule(job: PromptInternJob) -> str:
    count = job.spec.schedule.num_stages
    stages = "1 stage" if count == 1 else f"{count} stages"
    return f"at most {stages}, chosen by their scores" if job.spec.schedule.is_adaptive else stages
