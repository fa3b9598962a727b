"""spec.prompt: what is sent today, and how it is taken apart."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule
from promptintern_api.references import ModelUri

PLACEHOLDER = re.compile(r"\{(query|examples|answer)\}")
"""The only words in braces that mean something; any other brace is literal text."""


def count_placeholder(text: str, name: str) -> int:
    """How often ``{name}`` stands in ``text``."""
    return sum(1 for match in PLACEHOLDER.finditer(text) if match[1] == name)


class CompressorKind(StrEnum):
    """How template tokens are ranked for removal."""

    SELF_INFORMATION = "SelfInformation"
    LLMLINGUA2 = "LLMLingua2"
    PRECOMPUTED = "Precomputed"


class RetrieverKind(StrEnum):
    """How the examples of a query are chosen."""

    BM25 = "BM25"
    EMBEDDING = "Embedding"
    RANDOM = "Random"


class PrecomputedTemplate(ApiModel):
    """A template that the user wrote for one rate."""

    rate: Annotated[Number, Field(ge=0, le=1, description="The stage's template rate that this text serves.")]
    template: Annotated[
        str,
        StringConstraints(max_length=262_144),
        Field(description="The text; must hold {query} exactly once."),
    ]

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="template",
            message="must hold the placeholder {query} exactly once",
            cel="self.template.split('{query}').size() == 2",
            holds=lambda self: count_placeholder(self.template, "query") == 1,
        ),
    )


class Compressor(ApiModel):
    """How the template gets shorter from stage to stage."""

    kind: Annotated[
        CompressorKind,
        Field(
            description=(
                "SelfInformation keeps the words that surprise the job's base model most. LLMLingua2 keeps "
                "the words that a token classification model votes for. Precomputed takes the user's own "
                "text for each rate."
            )
        ),
    ] = CompressorKind.SELF_INFORMATION
    model_uri: Annotated[
        ModelUri | None,
        Field(description="LLMLingua2 only: the token classification model (two labels; label 1 means keep)."),
    ] = None
    templates: Annotated[
        list[PrecomputedTemplate] | None,
        Field(max_length=32, description="Precomputed only: a template for every rate below 1 of the schedule."),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="modelUri",
            message="is needed by kind LLMLingua2 and refused by the others",
            cel="has(self.modelUri) == (has(self.kind) && self.kind == 'LLMLingua2')",
            holds=lambda self: (self.model_uri is not None) == (self.kind is CompressorKind.LLMLINGUA2),
        ),
        Rule(
            field="templates",
            message="is needed by kind Precomputed and refused by the others",
            cel="has(self.templates) == (has(self.kind) && self.kind == 'Precomputed')",
            holds=lambda self: (self.templates is not None) == (self.kind is CompressorKind.PRECOMPUTED),
        ),
    )


class Retriever(ApiModel):
    """How the few-shot examples of a query are found among the training rows."""

    kind: Annotated[
        RetrieverKind,
        Field(
            description=(
                "BM25 ranks by shared words, Embedding by the cosine of mean-pooled vectors of a model, "
                "Random draws by training.seed. Never the query itself nor a duplicate of it."
            )
        ),
    ] = RetrieverKind.BM25
    model_uri: Annotated[ModelUri | None, Field(description="Embedding only: the encoder model.")] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="modelUri",
            message="is needed by kind Embedding and refused by the others",
            cel="has(self.modelUri) == (has(self.kind) && self.kind == 'Embedding')",
            holds=lambda self: (self.model_uri is not None) == (self.kind is RetrieverKind.EMBEDDING),
        ),
    )


class PromptSpec(ApiModel):
    """The prompt that is paid for today."""

    template: Annotated[
        str,
        StringConstraints(min_length=1, max_length=262_144),
        Field(
            description=(
                "The full prompt. {query} stands where the query goes (exactly once), {examples} where the "
                "few-shot block goes (at most once). Other braces are literal."
            )
        ),
    ]
    example_template: Annotated[
        str,
        StringConstraints(min_length=1, max_length=65_536),
        Field(description=("One few-shot example; must hold {query} and {answer}. Examples are joined as they are.")),
    ] = "{query}\n{answer}\n\n"
    protect: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]],
        Field(
            max_length=16,
            description=(
                "Literal pieces of the template that no rate removes, such as the cue before the answer. "
                "They are part of every prompt, also of the final query-only one, so keep them short."
            ),
        ),
    ] = []
    chat: Annotated[
        bool,
        Field(
            description=(
                "Wrap the prompt as the user turn and the answer as the assistant turn of the base model's "
                "own chat template. Refused where the model has none, or where the turns cannot be told "
                "apart in tokens."
            )
        ),
    ] = False
    compressor: Annotated[Compressor, Field(description="How the template gets shorter.")] = Compressor()
    retriever: Annotated[Retriever, Field(description="How examples are found.")] = Retriever()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="template",
            message="must hold the placeholder {query} exactly once",
            cel="self.template.split('{query}').size() == 2",
            holds=lambda self: count_placeholder(self.template, "query") == 1,
        ),
        Rule(
            field="template",
            message="may hold the placeholder {examples} at most once",
            cel="self.template.split('{examples}').size() <= 2",
            holds=lambda self: count_placeholder(self.template, "examples") <= 1,
        ),
        Rule(
            field="template",
            message="must not hold {answer}: the answer is what the model writes",
            cel="!self.template.contains('{answer}')",
            holds=lambda self: count_placeholder(self.template, "answer") == 0,
        ),
        Rule(
            field="exampleTemplate",
            message="must hold the placeholders {query} and {answer}",
            cel=(
                "!has(self.exampleTemplate) || "
                "(self.exampleTemplate.contains('{query}') && self.exampleTemplate.contains('{answer}'))"
            ),
            holds=lambda self: (
                count_placeholder(self.example_template, "query") > 0
                and count_placeholder(self.example_template, "answer") > 0
            ),
        ),
        Rule(
            field="protect",
            message="every piece must stand in the template literally and hold no placeholder",
            # indexOf, since the API server reckons contains at length times length and refuses such a rule
            cel=(
                "!has(self.protect) || self.protect.all(p, self.template.indexOf(p) >= 0 && "
                "!p.contains('{query}') && !p.contains('{examples}') && !p.contains('{answer}'))"
            ),
            holds=lambda self: all(piece in self.template and not PLACEHOLDER.search(piece) for piece in self.protect),
        ),
    )
