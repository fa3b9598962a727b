"""spec.prompt: the prompt that is sent today, and the methods that shorten its template and choose its examples."""

# ruff: noqa: RUF012 -- pydantic copies a default for every object
import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule
from promptintern_api.uris import ModelUri

PLACEHOLDER = re.compile(r"\{(query|examples|answer)\}")
"""The placeholders of a template. Every other brace is literal text."""


def count_placeholder(text: str, name: str) -> int:
    """Count the occurrences of ``{name}`` in ``text``."""
    return sum(1 for match in PLACEHOLDER.finditer(text) if match[1] == name)


MAX_PROMPT_BYTES = 262_144
"""The largest sum of the sizes of all texts of a prompt, which must fit into the job's ConfigMap of at most 1 MiB."""


class CompressorKind(StrEnum):
    """The way in which the words of a template are ranked for removal."""

    SELF_INFORMATION = "SelfInformation"
    LLMLINGUA2 = "LLMLingua2"
    PRECOMPUTED = "Precomputed"


class RetrieverKind(StrEnum):
    """The way in which the examples of a query are chosen."""

    BM25 = "BM25"
    EMBEDDING = "Embedding"
    RANDOM = "Random"


class PrecomputedTemplate(ApiModel):
    """A template that the user wrote for one rate."""

    rate: Annotated[
        Number,
        Field(
            ge=0,
            le=1,
            description="Share of the template's tokens that the schedule keeps in the stages that use this text.",
        ),
    ]
    template: Annotated[
        str,
        StringConstraints(max_length=262_144),
        Field(description="Text of the template at this rate. It must hold {query} exactly once."),
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
    """The method that shortens the template from stage to stage."""

    kind: Annotated[
        CompressorKind,
        Field(
            description=(
                "Method that shortens the template. SelfInformation keeps the words that are least predictable for the "
                "base model of the job. LLMLingua2 keeps the words that a token classification model selects. "
                "Precomputed uses the user's own text for each rate."
            )
        ),
    ] = CompressorKind.SELF_INFORMATION
    model_uri: Annotated[
        ModelUri | None,
        Field(
            description=(
                "URI of the token classification model of LLMLingua2, which has two labels; label 1 means keep. It is "
                "required for kind LLMLingua2, and must be left out for every other kind."
            )
        ),
    ] = None
    templates: Annotated[
        list[PrecomputedTemplate] | None,
        Field(
            max_length=32,
            description=(
                "Templates of kind Precomputed, one for every rate below 1 in the schedule. The list is required for "
                "kind Precomputed, and must be left out for every other kind."
            ),
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="modelUri",
            message="is required if kind is LLMLingua2, and must be left out otherwise",
            cel="has(self.modelUri) == (has(self.kind) && self.kind == 'LLMLingua2')",
            holds=lambda self: (self.model_uri is not None) == (self.kind is CompressorKind.LLMLINGUA2),
        ),
        Rule(
            field="templates",
            message="is required if kind is Precomputed, and must be left out otherwise",
            cel="has(self.templates) == (has(self.kind) && self.kind == 'Precomputed')",
            holds=lambda self: (self.templates is not None) == (self.kind is CompressorKind.PRECOMPUTED),
        ),
    )


class Retriever(ApiModel):
    """The method that finds the few-shot examples of a query among the training rows."""

    kind: Annotated[
        RetrieverKind,
        Field(
            description=(
                "Method that chooses examples. BM25 ranks training rows by shared words. Embedding ranks them by the "
                "cosine similarity of mean-pooled vectors. Random draws them with the seed training.seed. A query "
                "never gets itself or a duplicate of itself as an example."
            )
        ),
    ] = RetrieverKind.BM25
    model_uri: Annotated[
        ModelUri | None,
        Field(
            description=(
                "URI of the encoder model of kind Embedding. It is required for kind Embedding, and must be left out "
                "for every other kind."
            )
        ),
    ] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="modelUri",
            message="is required if kind is Embedding, and must be left out otherwise",
            cel="has(self.modelUri) == (has(self.kind) && self.kind == 'Embedding')",
            holds=lambda self: (self.model_uri is not None) == (self.kind is RetrieverKind.EMBEDDING),
        ),
    )


class PromptSpec(ApiModel):
    """The prompt that is currently sent, and paid for, with every query."""

    template: Annotated[
        str,
        StringConstraints(min_length=1, max_length=262_144),
        Field(
            description=(
                "The full prompt. {query}, which must occur exactly once, is replaced by the query. {examples}, which "
                "may occur at most once, is replaced by the few-shot examples. Every other brace is literal text."
            )
        ),
    ]
    example_template: Annotated[
        str,
        StringConstraints(min_length=1, max_length=65_536),
        Field(
            description=(
                "Text of one few-shot example. It must hold {query} and {answer}. Examples are joined without anything "
                "between them."
            )
        ),
    ] = "{query}\n{answer}\n\n"
    protect: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]],
        Field(
            max_length=16,
            description=(
                "Literal pieces of the template that are kept at every rate, such as the cue before the answer. They "
                "are part of every prompt, even in the last stage, so keep them short."
            ),
        ),
    ] = []
    chat: Annotated[
        bool,
        Field(
            description=(
                "Whether the prompt becomes the user turn, and the answer the assistant turn, of the base model's chat "
                "template. The job is refused if the model has no chat template, or if the tokens of the two turns "
                "cannot be separated."
            )
        ),
    ] = False
    compressor: Annotated[Compressor, Field(description="Method that shortens the template.")] = Compressor()
    retriever: Annotated[Retriever, Field(description="Method that finds the examples of a query.")] = Retriever()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="template",
            message=(
                f"must have at most {MAX_PROMPT_BYTES:,} bytes in UTF-8, together with exampleTemplate and all "
                "compressor.templates"
            ),
            cel=(
                "bytes(self.template).size() + "
                "(has(self.exampleTemplate) ? bytes(self.exampleTemplate).size() : 0) + "
                "(has(self.compressor) && has(self.compressor.templates) ? "
                f"self.compressor.templates.map(t, bytes(t.template).size()).sum() : 0) <= {MAX_PROMPT_BYTES}"
            ),
            holds=lambda self: self.text_bytes <= MAX_PROMPT_BYTES,
        ),
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
            message="must not hold {answer}, because the model writes the answer",
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
            message="must list pieces that occur literally in the template and hold no placeholder",
            # The API server estimates the cost of contains as the product of both lengths, so it would refuse it here.
            cel=(
                "!has(self.protect) || self.protect.all(p, self.template.indexOf(p) >= 0 && "
                "!p.contains('{query}') && !p.contains('{examples}') && !p.contains('{answer}'))"
            ),
            holds=lambda self: all(piece in self.template and not PLACEHOLDER.search(piece) for piece in self.protect),
        ),
    )

    @property
    def text_bytes(self) -> int:
        """The size in bytes, in UTF-8, of the template, the example template and the compressed templates together."""
        shorter = [item.template for item in self.compressor.templates or []]
        return sum(len(text.encode()) for text in (self.template, self.example_template, *shorter))
