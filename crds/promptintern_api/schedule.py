"""spec.schedule: how fast the template and the examples go away."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from promptintern_api.base import ApiModel, Number, Rule


class Curve(StrEnum):
    """The shape of the way from rate 1 to the final rate. The trainer's ``schedule`` has the formulas."""

    LINEAR = "Linear"
    EXPONENTIAL = "Exponential"
    INVERSE_EXPONENTIAL = "InverseExponential"


class ExplicitStage(ApiModel):
    """One stage that the user spelled out."""

    template_rate: Annotated[Number, Field(ge=0, le=1, description="Share of the template's tokens to keep.")]
    shots: Annotated[int, Field(ge=0, le=256, description="Examples in the prompt.")]
    epochs: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="Passes over the rows. Default: training.epochsPerStage."),
    ] = None


DEFAULT_STAGES = 4


class ScheduleSpec(ApiModel):
    """A curve, or an explicit list of stages."""

    stages: Annotated[int | None, Field(ge=1, le=64, description="Number of stages. Default 4.")] = None
    curve: Annotated[
        Curve | None,
        Field(
            description=(
                "Linear falls evenly, Exponential fast first, InverseExponential slowly first. Default "
                "Linear. These are this project's reading of the paper's names; docs/schedules.md has the "
                "formulas."
            )
        ),
    ] = None
    shots: Annotated[
        int | None, Field(ge=0, le=256, description="Examples in the first stage's prompt (K). Default 5.")
    ] = None
    final_rate: Annotated[
        Number | None,
        Field(ge=0, lt=1, description="Template rate of the last stage: 0 leaves the query alone. Default 0."),
    ] = None
    explicit: Annotated[
        list[ExplicitStage] | None,
        Field(
            min_length=1,
            max_length=64,
            description="The stages one by one, instead of the four fields above.",
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="explicit",
            message="cannot stand beside stages, curve, shots or finalRate",
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
            message="templateRate and shots may only fall from stage to stage",
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
            message="the last stage must have shots: 0, since inference sends no examples",
            cel="!has(self.explicit) || self.explicit[self.explicit.size() - 1].shots == 0",
            holds=lambda self: self.explicit is None or self.explicit[-1].shots == 0,
        ),
    )

    @property
    def num_stages(self) -> int:
        """How many stages the job has."""
        if self.explicit is not None:
            return len(self.explicit)
        return DEFAULT_STAGES if self.stages is None else self.stages
