"""spec.schedule: the stages in which the template and the examples are removed."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from promptintern_api.base import ApiModel, Number, Rule


class Curve(StrEnum):
    """The shape of the descent from rate 1 to the final rate. The trainer's module ``schedule`` has the formulas."""

    LINEAR = "Linear"
    EXPONENTIAL = "Exponential"
    INVERSE_EXPONENTIAL = "InverseExponential"
    ADAPTIVE = "Adaptive"


class ExplicitStage(ApiModel):
    """A stage that the user describes explicitly."""

    template_rate: Annotated[
        Number, Field(ge=0, le=1, description="Share of the template's tokens that the stage keeps.")
    ]
    shots: Annotated[int, Field(ge=0, le=256, description="Number of examples in the prompt.")]
    epochs: Annotated[
        int | None,
        Field(
            ge=1,
            le=10_000,
            description="Number of passes over the training rows. If it is left out, training.epochsPerStage applies.",
        ),
    ] = None


DEFAULT_STAGES = 4
DEFAULT_ADAPTIVE_STAGES = 8


class ScheduleSpec(ApiModel):
    """The stages of the training, which follow either a curve or an explicit list."""

    stages: Annotated[
        int | None,
        Field(
            ge=1,
            le=64,
            description=(
                "Number of stages. If it is left out, the number is 4, or the length of `explicit`. With curve "
                "Adaptive, it is the largest number of stages, and 8 if it is left out. Without `data.train`, and "
                "without a curve, it is 1 if it is left out."
            ),
        ),
    ] = None
    curve: Annotated[
        Curve | None,
        Field(
            description=(
                "Curve along which the template rate and the number of examples fall from stage to stage. Linear falls "
                "evenly, Exponential falls fast at first, and InverseExponential falls slowly at first. Adaptive falls "
                "as fast as the score allows: a stage whose score drops by more than evaluation.gate.maxDrop is "
                "discarded, and a smaller step is tried. If it is left out, the curve is Linear. The names of the "
                "first three come from the paper; the formulas are this project's interpretation of them (see "
                "docs/schedules.md)."
            )
        ),
    ] = None
    shots: Annotated[
        int | None,
        Field(
            ge=0,
            le=256,
            description=(
                "Number of examples in the prompt of the first stage (K). If it is left out, K is 5, or 0 without "
                "`data.train`."
            ),
        ),
    ] = None
    final_rate: Annotated[
        Number | None,
        Field(
            ge=0,
            lt=1,
            description=(
                "Share of the template's tokens that the last stage keeps. At 0, the prompt contains only the query "
                "and the pieces that `prompt.protect` lists. If it is left out, the share is 0."
            ),
        ),
    ] = None
    explicit: Annotated[
        list[ExplicitStage] | None,
        Field(
            min_length=1,
            max_length=64,
            description=(
                "List of all stages. It cannot be combined with `stages`, `curve`, `shots` and `finalRate`. If it is "
                "left out, these four fields determine the stages."
            ),
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="explicit",
            message="cannot be combined with stages, curve, shots or finalRate; leave out either it or all of these",
            cel=(
                "!has(self.explicit) || !(has(self.stages) || has(self.curve) || has(self.shots) || "
                "has(self.finalRate))"
            ),
            holds=lambda self: (
                self.explicit is None or all(v is None for v in (self.stages, self.curve, self.shots, self.final_rate))
            ),
        ),
        Rule(
            field="explicit",
            message="must not raise templateRate or shots from one stage to the next",
            cel=(
                "!has(self.explicit) || (self.explicit.map(s, -s.templateRate).isSorted() && "
                "self.explicit.map(s, -s.shots).isSorted())"
            ),
            holds=lambda self: (
                self.explicit is None
                or all(
                    a.template_rate >= b.template_rate and a.shots >= b.shots
                    for a, b in zip(self.explicit, self.explicit[1:], strict=False)
                )
            ),
        ),
        Rule(
            field="explicit",
            message="must end with a stage that has shots: 0, because inference sends no examples",
            cel="!has(self.explicit) || self.explicit[self.explicit.size() - 1].shots == 0",
            holds=lambda self: self.explicit is None or self.explicit[-1].shots == 0,
        ),
    )

    @property
    def num_stages(self) -> int:
        """The number of stages of the job; with curve Adaptive, the largest number of stages."""
        if self.explicit is not None:
            return len(self.explicit)
        if self.stages is not None:
            return self.stages
        return DEFAULT_ADAPTIVE_STAGES if self.is_adaptive else DEFAULT_STAGES

    @property
    def is_adaptive(self) -> bool:
        """Whether the stages are chosen while the job runs."""
        return self.curve is Curve.ADAPTIVE
