"""spec.training: LoRA, the optimizer, and what one step holds."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule


class LrSchedule(StrEnum):
    """The learning rate's course after warm-up."""

    CONSTANT = "Constant"
    LINEAR = "Linear"
    COSINE = "Cosine"


class OptimizerPolicy(StrEnum):
    """What happens to AdamW's moments at a stage boundary."""

    RESET = "Reset"
    KEEP = "Keep"


class LearningRatePolicy(StrEnum):
    """Whether each stage has a learning rate course of its own."""

    RESTART = "Restart"
    CONTINUE = "Continue"


class Packing(StrEnum):
    """Whether several prompts share one row."""

    AUTO = "Auto"
    NEVER = "Never"


class Lora(ApiModel):
    """The adapter that learns the prompt."""

    r: Annotated[int, Field(ge=1, le=1024, description="Rank.")] = 32
    alpha: Annotated[Number, Field(gt=0, le=4096, description="Scale: updates are multiplied by alpha / r.")] = 64
    dropout: Annotated[
        Number,
        Field(
            ge=0,
            lt=1,
            description="Dropout on the adapter's input. At 0 a pack computes what its prompts have in common once.",
        ),
    ] = 0.0
    target_modules: Annotated[
        str,
        StringConstraints(min_length=1, max_length=4096),
        Field(description="`all-linear`, or module names separated by commas, such as `q_proj,v_proj`."),
    ] = "all-linear"


class BetweenStages(ApiModel):
    """What a stage inherits besides the adapter's parameters, which it always does."""

    optimizer: Annotated[
        OptimizerPolicy,
        Field(description="Reset starts AdamW's moments at zero in every stage; Keep carries them over."),
    ] = OptimizerPolicy.RESET
    learning_rate: Annotated[
        LearningRatePolicy,
        Field(
            description=(
                "Restart gives every stage its own warm-up and decay; Continue runs one warm-up and decay "
                "over the steps of all stages."
            )
        ),
    ] = LearningRatePolicy.RESTART


class TrainingSpec(ApiModel):
    """How every stage is trained."""

    lora: Annotated[Lora, Field(description="The adapter.")] = Lora()
    learning_rate: Annotated[Number, Field(gt=0, le=1, description="Peak learning rate of AdamW.")] = 2e-4
    weight_decay: Annotated[Number, Field(ge=0, le=1, description="AdamW's decoupled weight decay.")] = 0.0
    lr_schedule: Annotated[LrSchedule, Field(description="Course of the learning rate after warm-up.")] = (
        LrSchedule.COSINE
    )
    warmup_ratio: Annotated[
        Number, Field(ge=0, lt=1, description="Share of the steps over which the learning rate rises from 0.")
    ] = 0.03
    max_grad_norm: Annotated[Number, Field(gt=0, le=1e6, description="Gradients are scaled down to this norm.")] = 1.0
    between_stages: Annotated[
        BetweenStages, Field(description="What the optimizer and the learning rate do at a stage boundary.")
    ] = BetweenStages()
    epochs_per_stage: Annotated[int, Field(ge=1, le=10_000, description="Passes over the rows in each stage.")] = 1
    tokens_per_batch: Annotated[
        int,
        Field(
            ge=16,
            le=67_108_864,
            description=(
                "Tokens of one optimizer step over all workers, prompts and answers. A step takes rows in "
                "order until the next would pass this number."
            ),
        ),
    ] = 32_768
    rows_per_batch: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_048_576,
            description=(
                "Also end a step's batch at so many rows, which keeps it as large in late stages as in early ones."
            ),
        ),
    ] = None
    tokens_per_pack: Annotated[
        int | None,
        Field(
            ge=16,
            le=4_194_304,
            description=(
                "Tokens that go through a worker's model at a time, in one pack or in several side by side, what "
                "prompts have in common counted once. Fewer need less memory and give the same step. "
                "Default: chosen by the trainer."
            ),
        ),
    ] = None
    packing: Annotated[
        Packing,
        Field(
            description=(
                "Auto packs several prompts into a row and computes what they have in common once, where the model "
                "allows it exactly; Never does not."
            )
        ),
    ] = Packing.AUTO
    max_tokens: Annotated[
        int | None,
        Field(
            ge=16,
            le=4_194_304,
            description="Longest prompt and answer. Default: what the base model can hold.",
        ),
    ] = None
    gradient_checkpointing: Annotated[
        bool,
        Field(description="Recompute activations in the backward pass: less memory, about a third more time."),
    ] = False
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Seed of the adapter, the row order and Random.")] = 0

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="tokensPerPack",
            message="must not be larger than tokensPerBatch",
            cel=(
                "!has(self.tokensPerPack) || self.tokensPerPack <= (has(self.tokensPerBatch) ? "
                "self.tokensPerBatch : 32768)"
            ),
            holds=lambda self: self.tokens_per_pack is None or self.tokens_per_pack <= self.tokens_per_batch,
        ),
    )
