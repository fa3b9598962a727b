"""spec.training: LoRA, the optimizer, and the size of a step."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule


class LrSchedule(StrEnum):
    """The course of the learning rate after the warm-up."""

    CONSTANT = "Constant"
    LINEAR = "Linear"
    COSINE = "Cosine"


class OptimizerPolicy(StrEnum):
    """The treatment of AdamW's moments at a stage boundary."""

    RESET = "Reset"
    KEEP = "Keep"


class LearningRatePolicy(StrEnum):
    """Whether each stage has its own learning-rate schedule."""

    RESTART = "Restart"
    CONTINUE = "Continue"


class Packing(StrEnum):
    """Whether several prompts share one pack."""

    AUTO = "Auto"
    NEVER = "Never"


class Lora(ApiModel):
    """The LoRA adapter that learns the prompt."""

    r: Annotated[int, Field(ge=1, le=1024, description="Rank of the adapter's matrices.")] = 32
    alpha: Annotated[
        Number, Field(gt=0, le=4096, description="Scale of the adapter: its output is multiplied by alpha / r.")
    ] = 64
    dropout: Annotated[
        Number,
        Field(
            ge=0,
            lt=1,
            description=(
                "Dropout probability on the input of the adapter. Prefixes that prompts have in common are computed "
                "once only if this is 0."
            ),
        ),
    ] = 0.0
    target_modules: Annotated[
        str,
        StringConstraints(min_length=1, max_length=4096),
        Field(
            description=(
                "Modules of the base model that get an adapter: `all-linear` for all linear layers except the output "
                "head, or module names separated by commas, such as `q_proj,v_proj`."
            ),
        ),
    ] = "all-linear"


class BetweenStages(ApiModel):
    """The state that a stage inherits from the previous stage, besides the parameters of the adapter."""

    optimizer: Annotated[
        OptimizerPolicy,
        Field(
            description=(
                "Treatment of AdamW's moments at the start of a stage. Reset sets them to zero. Keep carries them over."
            ),
        ),
    ] = OptimizerPolicy.RESET
    learning_rate: Annotated[
        LearningRatePolicy,
        Field(
            description=(
                "Course of the learning rate over the stages. Restart gives every stage its own warm-up and decay. "
                "Continue runs one warm-up and decay over the steps of all stages."
            )
        ),
    ] = LearningRatePolicy.RESTART


class TrainingSpec(ApiModel):
    """The training of every stage."""

    lora: Annotated[Lora, Field(description="Adapter that learns the prompt.")] = Lora()
    learning_rate: Annotated[
        Number, Field(gt=0, le=1, description="Peak learning rate of AdamW, which is reached after the warm-up.")
    ] = 2e-4
    weight_decay: Annotated[Number, Field(ge=0, le=1, description="Decoupled weight decay of AdamW.")] = 0.0
    lr_schedule: Annotated[
        LrSchedule,
        Field(
            description=(
                "Course of the learning rate after the warm-up. Constant stays at the peak. Linear and Cosine fall to "
                "0 at the last step."
            ),
        ),
    ] = LrSchedule.COSINE
    warmup_ratio: Annotated[
        Number,
        Field(
            ge=0, lt=1, description="Share of the steps in which the learning rate rises linearly from 0 to its peak."
        ),
    ] = 0.03
    max_grad_norm: Annotated[
        Number,
        Field(
            gt=0, le=1e6, description="Largest norm of the gradient of a step. A longer gradient is scaled down to it."
        ),
    ] = 1.0
    between_stages: Annotated[
        BetweenStages, Field(description="State of the optimizer and of the learning rate that a stage inherits.")
    ] = BetweenStages()
    epochs_per_stage: Annotated[
        int, Field(ge=1, le=10_000, description="Passes over the training rows in each stage.")
    ] = 1
    tokens_per_batch: Annotated[
        int,
        Field(
            ge=16,
            le=67_108_864,
            description=(
                "Tokens of prompts and answers in one optimizer step, over all workers. A step takes rows in shuffled "
                "order until the next row would exceed this number. A longer row forms a step by itself."
            ),
        ),
    ] = 32_768
    rows_per_batch: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_048_576,
            description=(
                "Rows in one optimizer step, over all workers, at which the step ends even if `tokensPerBatch` is not "
                "reached. With it, steps have as many rows in late stages, whose prompts are short, as in early "
                "stages. If it is left out, only `tokensPerBatch` limits a step."
            ),
        ),
    ] = None
    tokens_per_pack: Annotated[
        int | None,
        Field(
            ge=16,
            le=4_194_304,
            description=(
                "Tokens that a worker computes at once, in one pack or in several packs in parallel. Tokens that "
                "prompts share count once. A smaller number needs less memory and gives the same step. It may not "
                "exceed `tokensPerBatch`. If it is left out, the trainer chooses it."
            ),
        ),
    ] = None
    packing: Annotated[
        Packing,
        Field(
            description=(
                "Packing of rows. Auto puts several rows into a pack and computes what their prompts have in common "
                "once, if the model allows that exactly. Never puts every row into a pack of its own."
            )
        ),
    ] = Packing.AUTO
    max_tokens: Annotated[
        int | None,
        Field(
            ge=16,
            le=4_194_304,
            description=(
                "Longest sequence of prompt and answer, in tokens. If it is left out, the context length of the base "
                "model applies, or 4096 if its configuration names none. data.onTooLong says what happens to longer "
                "rows."
            ),
        ),
    ] = None
    gradient_checkpointing: Annotated[
        bool,
        Field(
            description=(
                "Whether activations are recomputed in the backward pass, which needs less memory and about a third "
                "more time."
            ),
        ),
    ] = False
    seed: Annotated[
        int,
        Field(
            ge=0,
            le=2**31 - 1,
            description=(
                "Seed of the adapter's initial weights, the order of the rows, dropout, and the retriever Random."
            ),
        ),
    ] = 0

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="tokensPerPack",
            message="must not be larger than tokensPerBatch; lower it or raise tokensPerBatch",
            cel=(
                "!has(self.tokensPerPack) || self.tokensPerPack <= (has(self.tokensPerBatch) ? "
                "self.tokensPerBatch : 32768)"
            ),
            holds=lambda self: self.tokens_per_pack is None or self.tokens_per_pack <= self.tokens_per_batch,
        ),
    )
