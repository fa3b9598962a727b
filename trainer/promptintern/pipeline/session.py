"""The session of a worker, which holds what a whole run uses: the model, the rows, and the templates of all stages."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from promptintern_api import PromptInternJob
from promptintern_api.compute import Device
from promptintern_api.evaluation import AnswerEngine
from promptintern_api.prompt import RetrieverKind
from promptintern_api.training import Packing

from promptintern.answering.vllm.engine import VllmEngine
from promptintern.answering.vllm.environment import check_vllm_can_serve, find_vllm
from promptintern.compress import CompressedTemplate, build_compressor, check_precomputed
from promptintern.engine import distributed
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.engine.lanes import lane_threads, pin_thread_settings
from promptintern.engine.packing.layout import PackLayout, SupportedLayouts, probe_layouts
from promptintern.engine.packing.memory import tokens_that_fit
from promptintern.errors import RunFailed, UserError
from promptintern.models.fetch import ModelFolder, fetch_model
from promptintern.models.load import (
    DTYPES,
    check_vocabulary,
    context_length,
    load_base_model,
    load_config,
    load_tokenizer,
    vocabulary_size,
)
from promptintern.pipeline.context_fit import fit_rows
from promptintern.pipeline.inputs import (
    Data,
    Examples,
    render_prompts,
    s3_options,
    stages_of,
)
from promptintern.pipeline.phases import PhaseClock
from promptintern.pipeline.teaching.lessons import Lesson, Lessons, lesson_rows
from promptintern.pipeline.teaching.written import SelfStudy
from promptintern.prompt.encode import Encoded, PromptEncoder
from promptintern.rows.types import Query
from promptintern.schedule import Stage

CPU_PACK_TOKENS = 2048
"""The default number of tokens of a pack on a CPU. With twice this number, an optimizer step of a model with 4
layers and hidden size 256 is about 10 % faster, but needs 120 MiB more memory."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """The objects that a worker uses for a whole run, from the first stage to the report."""

    job: PromptInternJob
    folder: ModelFolder
    tokenizer: Any
    encoder: PromptEncoder
    adapter: Adapter
    device: torch.device
    data: Data
    examples: Examples
    stages: list[Stage]
    templates: list[CompressedTemplate]
    """The templates of the stages, in the order of the stages."""
    full_template: CompressedTemplate
    """The template at rate 1, which is uncompressed."""
    max_tokens: int
    """The maximum length of a prompt with its answer, in tokens."""
    layouts: SupportedLayouts
    threads: int
    """The number of threads of a worker that may compute packs concurrently. All workers use the
    smallest number of any worker, because all workers must plan the same packs."""
    notes: list[str]
    """Sentences for the report that say how the run is computed, such as why packing is off."""
    warnings: list[str]
    """Warnings about the scores, in addition to ``data.warnings``."""
    self_study: SelfStudy | None = None
    """The queries that the base model wrote, which ``data.queries`` holds too; None if it wrote none."""
    lessons: Lessons = field(default_factory=Lessons)
    """What the teacher of the present stage taught; empty before the teaching pass, and if nothing is taught."""
    clock: PhaseClock = field(default_factory=PhaseClock)
    """The clock of the run's phases on this worker."""
    engine: VllmEngine | None = None
    """The vLLM engine that generates answers; None if the trainer generates them itself."""
    noted: set[str] = field(default_factory=set)
    """The notes about answers that were emitted, so that none is emitted twice."""

    @property
    def engine_start_seconds(self) -> float:
        """The time that all starts of the vLLM engine took, which is no time of answering."""
        return self.engine.start_seconds if self.engine is not None else 0.0

    def free_device(self) -> None:
        """Give PyTorch the memory of the device. Call this before each computation except answers."""
        if self.engine is not None and self.engine.holds_device:
            self.engine.close()

    @cached_property
    def pool(self) -> list[Query]:
        """The rows from which a run may learn: the training rows, and then the queries without answers."""
        return [*self.data.train, *self.data.queries]

    @cached_property
    def _pool_neighbours(self) -> list[list[int]]:
        """The examples of each row of ``pool``."""
        return [*self.examples.train, *self.examples.queries]

    @property
    def training_queries(self) -> list[Query]:
        """The queries of ``encode_training``: the training rows, and then the queries that the teacher answered."""
        return [*self.data.train, *(self.pool[lesson.row] for lesson in self._answered)]

    def prompts(
        self, template: CompressedTemplate, shots: int, *, rows: Sequence[Query], neighbours: Sequence[Sequence[int]]
    ) -> Iterator[str]:
        """Return an iterator over the prompts of ``rows``, whose examples are ``neighbours``."""
        return render_prompts(self.job, template, rows=rows, neighbours=neighbours, shots=shots, pool=self.data.train)

    def encode_training(self, template: CompressedTemplate, shots: int) -> list[Encoded]:
        """Return the prompts and answers of ``training_queries``, as token ids."""
        prompts = self.prompts(template, shots, rows=self.data.train, neighbours=self.examples.train)
        written = self.encoder.encode(prompts, [row.answer for row in self.data.train])
        scored = {lesson.row: lesson for lesson in self.lessons.lessons if lesson.row < len(written)}
        written = [replace(row, teacher=scored[i].targets) if i in scored else row for i, row in enumerate(written)]
        prompts = self.prompts_of([lesson.row for lesson in self._answered], template, shots)
        return written + lesson_rows(self._answered, self.encoder.encode_prompts(prompts))

    def prompts_of(self, rows: Sequence[int], template: CompressedTemplate, shots: int) -> Iterator[str]:
        """Return an iterator over the prompts of the rows with these indices in ``pool``."""
        neighbours = [self._pool_neighbours[i] for i in rows]
        return self.prompts(template, shots, rows=[self.pool[i] for i in rows], neighbours=neighbours)

    @property
    def _answered(self) -> list[Lesson]:
        """The lessons whose answers the teacher gave."""
        return [lesson for lesson in self.lessons.lessons if lesson.row >= len(self.data.train)]

    def encode_held_out(self, template: CompressedTemplate, shots: int, *, limit: int | None = None) -> list[list[int]]:
        """Return the prompts of the first ``limit`` held-out rows, or of all held-out rows by default, as token ids."""
        prompts = islice(self.prompts(template, shots, rows=self.data.eval, neighbours=self.examples.eval), limit)
        return [list(ids) for ids in self.encoder.encode_prompts(prompts)]


def pick_device(job: PromptInternJob, *, local_rank: int = 0) -> torch.device:
    """Return the device on which this worker computes.

    Raises:
        RunFailed: if the job asks for a GPU, but PyTorch finds none in this process.
    """
    requested = job.spec.compute.device
    gpu = torch.cuda.is_available()
    if not gpu and (requested is Device.CUDA or job.spec.compute.gpus_per_worker > 0):
        raise RunFailed(
            "the job asks for a GPU (compute.device, compute.gpusPerWorker), but this worker sees none; "
            "set compute.device: CPU and gpusPerWorker: 0 to train on the CPU"
        )
    if requested is Device.CPU or not gpu:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def open_session(job: PromptInternJob, data: Data, *, local_rank: int = 0, clock: PhaseClock | None = None) -> Session:
    """Load the model, compress the template, retrieve examples, check the rows, and attach the adapter.

    Rank 0 compresses the template for all workers.

    Args:
        clock: The clock of the run's phases, or None for a new one.

    Raises:
        UserError: if anything is wrong with the job, its data or its model.
        RunFailed: if the job asks for a GPU, but PyTorch finds none in this process.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    vllm = find_vllm() if job.spec.evaluation.engine is AnswerEngine.VLLM else None
    device = pick_device(job, local_rank=local_rank)
    pin_thread_settings(device)
    folder = fetch_model(job.spec.model.uri, s3=s3_options(job))
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, load_config(folder))
    base = load_base_model(folder, dtype=DTYPES[job.spec.model.dtype], device=device)
    stages = stages_of(job)
    templates = distributed.from_rank_zero(
        lambda: compress_all(job, stages, tokenizer=tokenizer, model=base, folder=folder)
    )
    full_template, *by_stage = templates
    encoder = PromptEncoder(tokenizer, chat=job.spec.prompt.chat, vocabulary=vocabulary_size(base.config))
    fitting_rows = fit_rows(
        job,
        data,
        full=full_template,
        by_stage=by_stage,
        encoder=encoder,
        embedder=load_embedder(job, device),
        model_config=base.config,
        needs_training_rows=job.spec.data.generate is None,
    )
    adapter = attach_lora(base, job.spec.training.lora, seed=job.spec.training.seed)
    if vllm is not None:
        check_vllm_can_serve(adapter, dtype=job.spec.model.dtype, on_gpu=device.type == "cuda")
    layouts, notes = _layouts(job, adapter, tokenizer, device)
    if job.spec.training.gradient_checkpointing:
        _checkpoint_gradients(adapter)
    layouts = replace(layouts, tokens_that_fit=_tokens_that_fit(job, adapter, layouts, tokenizer, device))
    engine = None
    if vllm is not None:
        engine = VllmEngine(
            vllm,
            model=folder.path,
            dtype=job.spec.model.dtype,
            rank=adapter.highest_rank,
            max_tokens=context_length(base.config),
            device=device,
        )
    return Session(
        job=job,
        folder=folder,
        tokenizer=tokenizer,
        encoder=encoder,
        adapter=adapter,
        device=device,
        data=fitting_rows.data,
        examples=fitting_rows.examples,
        stages=stages,
        templates=by_stage,
        full_template=full_template,
        max_tokens=fitting_rows.max_tokens,
        layouts=layouts,
        threads=min(distributed.gather_objects(_pack_threads(job, adapter, layouts, device))),
        notes=notes,
        warnings=fitting_rows.warnings,
        clock=clock or PhaseClock(),
        engine=engine,
    )


def _pack_threads(job: PromptInternJob, adapter: Adapter, layouts: SupportedLayouts, device: torch.device) -> int:
    shares_prefixes = layouts.best is PackLayout.PREFIX_TREE and not job.spec.training.gradient_checkpointing
    return lane_threads(adapter.model, device) if shares_prefixes else 1


def _checkpoint_gradients(adapter: Adapter) -> None:
    adapter.model.enable_input_require_grads()
    try:
        adapter.model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError:
        name = type(adapter.model.get_base_model()).__name__
        raise UserError.at(
            "spec.training.gradientCheckpointing",
            f"{name} does not support gradient checkpointing; leave the field out, and lower tokensPerPack to save "
            "memory",
        ) from None


def compress_all(
    job: PromptInternJob, stages: Sequence[Stage], *, tokenizer: Any, model: Any, folder: ModelFolder | None = None
) -> list[CompressedTemplate]:
    """Compress the job's template, and return it at rate 1, followed by the template at the rate of each stage."""
    check_precomputed(job.spec.prompt, stages)
    compressor = build_compressor(
        job.spec.prompt,
        tokenizer=tokenizer,
        model=model,
        model_digest=folder.digest() if folder else None,
        s3=s3_options(job),
    )
    return [compressor.compress(rate) for rate in (1.0, *(stage.rate for stage in stages))]


def load_embedder(job: PromptInternJob, device: torch.device) -> Any:
    """Return the encoder of the job's Embedding retriever, or None if the job has another retriever."""
    retriever = job.spec.prompt.retriever
    if retriever.kind is not RetrieverKind.EMBEDDING:
        return None
    from promptintern.retrieve import load_encoder

    assert retriever.model_uri is not None
    field = "spec.prompt.retriever.modelUri"
    return load_encoder(fetch_model(retriever.model_uri, s3=s3_options(job), field=field).path, device=device)


def _layouts(
    job: PromptInternJob, adapter: Adapter, tokenizer: Any, device: torch.device
) -> tuple[SupportedLayouts, list[str]]:
    if job.spec.training.packing is Packing.NEVER:
        alone = SupportedLayouts(
            best=PackLayout.UNPACKED,
            for_long_rows=PackLayout.UNPACKED,
            attention_window=None,
            rope_scaling_limit=None,
            reason="",
        )
        return alone, ["Packing is off, because spec.training.packing is Never, so every row is computed alone."]
    # Rank 0 chooses for all workers, because all of them must plan the same packs.
    layouts = distributed.from_rank_zero(
        lambda: probe_layouts(
            adapter,
            vocab_size=_vocabulary(adapter, tokenizer),
            dropout=job.spec.training.lora.dropout,
            device=device,
        )
    )
    if layouts.best is PackLayout.UNPACKED:
        return layouts, [f"Packing is off: {layouts.reason}, so every row is computed alone."]
    if layouts.reason:
        return layouts, [f"Tokens that prompts have in common are computed again for every row: {layouts.reason}."]
    return layouts, []


def _tokens_that_fit(
    job: PromptInternJob, adapter: Adapter, layouts: SupportedLayouts, tokenizer: Any, device: torch.device
) -> int | None:
    """Return the number of tokens that a pack can have in the memory of every worker, or None if it is not measured."""
    if job.spec.training.tokens_per_pack or not layouts.best.uses_tree_attention:
        return None
    vocabulary = _vocabulary(adapter, tokenizer)
    own_tokens = tokens_that_fit(adapter, layouts.best, vocab_size=vocabulary, device=device)
    return min((tokens for tokens in distributed.gather_objects(own_tokens) if tokens), default=None)


def _vocabulary(adapter: Adapter, tokenizer: Any) -> int:
    """Return the number of token ids that both the model's embedding and the tokenizer have."""
    embedded: int = adapter.model.get_base_model().config.get_text_config().vocab_size
    return min(len(tokenizer), embedded)


def tokens_per_pack(job: PromptInternJob, layouts: SupportedLayouts, layout: PackLayout, device: torch.device) -> int:
    """Return the maximum number of tokens of a pack: the job's setting, or a default for the device.

    The default is smaller for packs that need an attention mask, because the size of the mask grows with the square of
    the number of tokens.
    """
    with_mask = 8192 if device.type == "cuda" else 1024
    default = (layouts.tokens_that_fit or CPU_PACK_TOKENS) if layout.uses_tree_attention else with_mask
    training = job.spec.training
    tokens = training.tokens_per_pack or min(default, training.tokens_per_batch)
    return min(tokens, layouts.max_pack_tokens or tokens)
