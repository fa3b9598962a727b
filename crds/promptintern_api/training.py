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
    """Whether several rows may share a pack."""

    AUTO = "Auto"
    NEVER = "Never"


class TeacherLoss(StrEnum):
    """The loss by which the trained model learns from its teacher."""

    FORWARD_KL = "ForwardKL"
    JENSEN_SHANNON = "JensenShannon"
    ANSWERS = "Answers"


class TeacherModel(StrEnum):
    """The model that teaches a stage."""

    BASE = "Base"
    PREVIOUS_STAGE = "PreviousStage"
    BEST_STAGE = "BestStage"


DEFAULT_TOP_K = 64


class Samples(ApiModel):
    """The random answers of the teacher to each query, of which the most frequent one is learned."""

    count: Annotated[int, Field(ge=2, le=64, description="Number of answers to each query.")] = 5
    temperature: Annotated[
        Number,
        Field(
            ge=0.01,
            le=5,
            description="Temperature at which the answers are drawn. At 1, tokens have the teacher's probabilities.",
        ),
    ] = 0.7
    min_agreement: Annotated[
        Number,
        Field(
            ge=0,
            le=1,
            description=(
                "Smallest share of the answers to a query that must be equal to the most frequent one, apart from "
                "white space. A query with less agreement is left out and counted."
            ),
        ),
    ] = 0.5


class Teacher(ApiModel):
    """The teacher of a stage: a model that has a longer prompt than the stage."""

    model: Annotated[
        TeacherModel,
        Field(
            description=(
                "Model that teaches. Base is the base model with the full prompt. PreviousStage is the model of the "
                "previous stage with the prompt of that stage. BestStage is the model with the highest score so far: "
                "that of an earlier stage, with its own prompt, or the base model with the full prompt. A stage "
                "teaches both the queries and the training rows, and the first stage learns from the training rows "
                "alone. Without training rows, the base model teaches the first stage."
            )
        ),
    ] = TeacherModel.BASE
    loss: Annotated[
        TeacherLoss,
        Field(
            description=(
                "Loss per token of the teacher's answer. ForwardKL is the Kullback-Leibler divergence of the trained "
                "model's distribution over the next token from the teacher's. JensenShannon is the Jensen-Shannon "
                "divergence of the two. Answers is the cross-entropy of the teacher's answer, as if somebody had "
                "written the answer."
            )
        ),
    ] = TeacherLoss.FORWARD_KL
    top_k: Annotated[
        int | None,
        Field(
            ge=1,
            le=4096,
            description=(
                "Number of next tokens whose probabilities are stored for each token of the teacher's answer. All "
                "other tokens together are one further outcome. It must be left out with loss Answers. If it is left "
                f"out otherwise, it is {DEFAULT_TOP_K}."
            ),
        ),
    ] = None
    samples: Annotated[
        Samples | None,
        Field(
            description=(
                "Several random answers to each query, of which the most frequent one is learned if enough of them "
                "agree. If it is left out, the teacher gives its most likely tokens (greedy)."
            )
        ),
    ] = None
    weight: Annotated[
        Number,
        Field(
            gt=0,
            le=1000,
            description=(
                "Weight of the teacher's loss at an answer token. The cross-entropy of an answer token of a training "
                "row has weight 1."
            ),
        ),
    ] = 1.0

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="topK",
            message="must be left out if loss is Answers, which uses no probabilities of the teacher",
            cel="!has(self.topK) || !has(self.loss) || self.loss != 'Answers'",
            holds=lambda self: self.top_k is None or self.loss is not TeacherLoss.ANSWERS,
        ),
    )


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
                "Dropout probability on the input of the adapter. Only at 0 can a prefix that several prompts share be "
                "computed once for all of them."
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
    """The settings of the training, which apply to every stage."""

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
            gt=0,
            le=1e6,
            description="Maximum norm of a step's gradient. A gradient with a larger norm is scaled down to this norm.",
        ),
    ] = 1.0
    between_stages: Annotated[
        BetweenStages, Field(description="State of the optimizer and of the learning rate that a stage inherits.")
    ] = BetweenStages()
    epochs_per_stage: Annotated[
        int, Field(ge=1, le=10_000, description="Number of passes over the training rows in each stage.")
    ] = 1
    tokens_per_batch: Annotated[
        int,
        Field(
            ge=16,
            le=67_108_864,
            description=(
                "Maximum number of tokens of prompts and answers in one optimizer step, over all workers. A step takes "
                "rows in shuffled order until the next row would exceed this number. A row with more tokens forms a "
                "step of its own."
            ),
        ),
    ] = 32_768
    rows_per_batch: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_048_576,
            description=(
                "Maximum number of rows in one optimizer step, over all workers; the step ends there even if "
                "`tokensPerBatch` is not reached. If this field is set, late stages, whose prompts are short, have as "
                "many rows per step as early stages. If it is left out, only `tokensPerBatch` limits a step."
            ),
        ),
    ] = None
    tokens_per_pack: Annotated[
        int | None,
        Field(
            ge=16,
            le=4_194_304,
            description=(
                "Maximum number of tokens that a worker computes at the same time, in one pack or in several packs in "
                "parallel. Tokens of a prefix that several prompts share are counted once. On a CPU, tokens that all "
                "prompts of a step begin with may not be counted at all. A smaller number needs less memory and "
                "changes the result of a step only by rounding. It may not exceed `tokensPerBatch`. If it is left "
                "out, the trainer chooses it."
            ),
        ),
    ] = None
    packing: Annotated[
        Packing,
        Field(
            description=(
                "Packing of rows. Auto puts several rows into a pack, and computes each prefix that is common to their "
                "prompts only once, if the model's result stays exact. Never puts every row into a pack of its own."
            )
        ),
    ] = Packing.AUTO
    max_tokens: Annotated[
        int | None,
        Field(
            ge=16,
            le=4_194_304,
            description=(
                "Maximum length of a prompt and its answer together, in tokens. If it is left out, the context length "
                "of the base model applies, or 4096 if the model's configuration does not state one. data.onTooLong "
                "determines what happens to longer rows."
            ),
        ),
    ] = None
    gradient_checkpointing: Annotated[
        bool,
        Field(
            description=(
                "Whether activations are recomputed in the backward pass, which saves memory but takes about a third "
                "more time."
            ),
        ),
    ] = False
    teacher: Annotated[
        Teacher | None,
        Field(
            description=(
                "How the trained model learns from a model with a longer prompt, which answers `data.queries`. If it "
                "is left out and there are queries, its defaults apply. Without queries, it must be left out, unless "
                "`model` is PreviousStage or BestStage and `loss` is not Answers."
            )
        ),
    ] = None
    seed: Annotated[
        int,
        Field(
            ge=0,
            le=2**31 - 1,
            description=(
                "Seed of the adapter's initial weights, the order of the rows, the dropout, and the examples of "
                "retriever Random."
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
        Rule(
            field="betweenStages.learningRate",
            message=(
                "must be Restart if a stage teaches (teacher.model), because the number of steps of a stage is not "
                "known before the earlier stages are trained"
            ),
            cel=(
                "!has(self.teacher) || !has(self.teacher.model) || self.teacher.model == 'Base' || "
                "!has(self.betweenStages) || !has(self.betweenStages.learningRate) || "
                "self.betweenStages.learningRate == 'Restart'"
            ),
            holds=lambda self: (
                self.teacher is None
                or self.teacher.model is TeacherModel.BASE
                or self.between_stages.learning_rate is LearningRatePolicy.RESTART
            ),
        ),
    )
