"""The metrics of an evaluation, and what they need: normalizers, limits of programs, and a scorer of the user's own."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule
from promptintern_api.pods import Quantity


class Metric(StrEnum):
    """A metric: a share of right answers (0 to 1), or a score of all answers (BLEU, ChrF and Scorer, 0 to 100)."""

    EXACT_MATCH = "ExactMatch"
    BLEU = "BLEU"
    CHRF = "ChrF"
    BASH_TEMPLATE = "BashTemplate"
    PASS_AT_1 = "PassAt1"
    SCORER = "Scorer"

    @property
    def is_share(self) -> bool:
        """Whether each answer is right or wrong, so that the score is the share of right answers."""
        return self not in (Metric.BLEU, Metric.CHRF, Metric.SCORER)

    @property
    def largest(self) -> float:
        """The largest possible score: 1 or 100."""
        return 1.0 if self.is_share else 100.0


class Normalizer(StrEnum):
    """A difference between answers that ExactMatch ignores."""

    UNICODE = "Unicode"
    CODE_FENCE = "CodeFence"
    CASE = "Case"
    PUNCTUATION = "Punctuation"
    ARTICLES = "Articles"


class ProgramIsolation(StrEnum):
    """What must hold a program that a model wrote."""

    REQUIRED = "Required"
    PARTIAL = "Partial"


class Programs(ApiModel):
    """The limits of the programs that PassAt1 runs."""

    timeout_seconds: Annotated[
        Number, Field(gt=0, le=600, description="Longest time that a program and its tests may take, in seconds.")
    ] = 5.0
    memory: Annotated[Quantity, Field(description="Largest address space of a program, such as 512Mi.")] = "512Mi"
    isolation: Annotated[
        ProgramIsolation,
        Field(
            description=(
                "What must hold a program. Required: the run refuses to start where the kernel cannot keep programs "
                "from the network, from other processes and from all files but their own. Partial: the run also starts "
                "where it cannot keep them from reading and writing other files."
            )
        ),
    ] = ProgramIsolation.REQUIRED


class PassAtK(ApiModel):
    """The draws for pass@k with k above 1."""

    samples: Annotated[
        int, Field(ge=1, le=1000, description="Number of answers that are drawn for each held-out row.")
    ] = 10
    temperature: Annotated[Number, Field(ge=0.01, le=5, description="Temperature at which the answers are drawn.")] = (
        0.8
    )
    k: Annotated[
        list[Annotated[int, Field(ge=1, le=1000)]],
        Field(
            min_length=1,
            max_length=8,
            description="Numbers k for which the report shows pass@k. None may be above `samples`.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = [1, 10]

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="k",
            message="must not hold a number above samples, nor a number twice",
            cel=(
                "!has(self.k) || (self.k.all(k, k <= (has(self.samples) ? self.samples : 10)) && "
                "self.k.all(k, self.k.exists_one(n, n == k)))"
            ),
            holds=lambda self: max(self.k) <= self.samples and len(set(self.k)) == len(self.k),
        ),
    )


class Scorer(ApiModel):
    """The metric Scorer: a function or a program of the user, which gives each answer a number from 0 to 100."""

    entry_point: Annotated[
        str | None,
        StringConstraints(max_length=256, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"),
        Field(
            description=(
                "Function, such as my_package.scores:score, in a module that the trainer's image has. It is called "
                "with the keywords query (text), answers (list of the accepted answers) and prediction (text)."
            )
        ),
    ] = None
    command: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]] | None,
        Field(
            min_length=1,
            max_length=32,
            description=(
                "Program and its arguments. It reads a JSON object with query, answers and prediction on each line of "
                "its input, and writes the number of the answer as a line of its output before it reads the next line."
            ),
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ] = None
    timeout_seconds: Annotated[
        Number, Field(gt=0, le=600, description="Longest time for the number of one answer, in seconds.")
    ] = 10.0
    memory: Annotated[Quantity, Field(description="Largest address space of the scorer, such as 4Gi.")] = "4Gi"

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="entryPoint",
            message="either entryPoint or command is required, and not both",
            cel="has(self.entryPoint) != has(self.command)",
            holds=lambda self: (self.entry_point is None) != (self.command is None),
        ),
    )
