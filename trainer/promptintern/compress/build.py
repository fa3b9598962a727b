"""Builds the compressor that spec.prompt describes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from promptintern_api.prompt import CompressorKind, PromptSpec

from promptintern.compress.cache import ScoreCache, cache_key, tokenizer_digest
from promptintern.compress.classifier import FIELD, load_classifier
from promptintern.compress.precomputed import PrecomputedTemplates, parse_precomputed
from promptintern.compress.ranked import CompressedTemplate, RankedTemplate, rank_units, split_units
from promptintern.compress.scores import llmlingua2_scores, self_information_scores
from promptintern.models.fetch import cache_root
from promptintern.prompt.template import Template, parse_template
from promptintern.storage.options import S3Options


class Compressor(Protocol):
    """A compressor, which returns the template compressed to any rate of the schedule."""

    def compress(self, rate: float) -> CompressedTemplate:
        """Return the template compressed to ``rate``, the share of its tokens to keep (0 to 1)."""
        ...


def build_compressor(
    spec: PromptSpec,
    *,
    tokenizer: Any,
    model: Any = None,
    model_digest: str | None = None,
    s3: S3Options | None = None,
    cache_dir: Path | None = None,
) -> Compressor:
    """Build the compressor that ``spec`` describes.

    The compressor scores the template when it is first asked for a rate between 0 and 1.

    Args:
        tokenizer: The tokenizer of the training model. Rates are counted in its tokens.
        model: The job's base model, which kind SelfInformation uses for scoring.
        model_digest: The base model's digest, for the cache key. If None, scores of SelfInformation are not cached.
        s3: Options for loading the model of kind LLMLingua2 from S3.
        cache_dir: The folder for cached scores. Default: ``promptintern/compress`` in the user's cache folder.

    Raises:
        UserError: if the template, or a template of kind Precomputed, is invalid.
    """
    template = parse_template(spec.template, spec.protect)
    if spec.compressor.kind is CompressorKind.PRECOMPUTED:
        return PrecomputedTemplates(full=template, by_rate=parse_precomputed(spec), tokenizer=tokenizer)
    cache = ScoreCache(folder=cache_dir or cache_root() / "compress")
    if spec.compressor.kind is CompressorKind.LLMLINGUA2:
        assert spec.compressor.model_uri is not None
        uri = spec.compressor.model_uri
        return ScoredTemplate(
            template=template,
            tokenizer=tokenizer,
            score=lambda: _score_with_classifier(template, uri, s3, cache),
        )
    return ScoredTemplate(
        template=template,
        tokenizer=tokenizer,
        score=lambda: _score_with_base_model(template, model, tokenizer, model_digest, cache),
    )


@dataclass(frozen=True, kw_only=True)
class ScoredTemplate:
    """A compressor that scores and ranks the words of a template when the ranking is first needed."""

    template: Template
    tokenizer: Any
    score: Callable[[], list[float]]

    @cached_property
    def _ranked(self) -> RankedTemplate:
        return self._with_ranking(rank_units(self.score()))

    def _with_ranking(self, ranking: Sequence[int]) -> RankedTemplate:
        return RankedTemplate(
            template=self.template, units=split_units(self.template), ranking=ranking, tokenizer=self.tokenizer
        )

    def compress(self, rate: float) -> CompressedTemplate:
        """Return the template compressed to ``rate``. For rates 0 and 1, nothing is scored and no model is needed."""
        if rate in (0, 1):
            return self._with_ranking(range(len(split_units(self.template)))).compress(rate)
        return self._ranked.compress(rate)


def _score_with_base_model(
    template: Template, model: Any, tokenizer: Any, model_digest: str | None, cache: ScoreCache
) -> list[float]:
    assert model is not None, "SelfInformation needs the base model at rates between 0 and 1"

    def score() -> list[float]:
        return self_information_scores(template, model, tokenizer)

    if model_digest is None:
        return score()
    return cache.get(
        cache_key(
            kind="SelfInformation",
            template=_identity(template),
            model=model_digest,
            dtype=str(next(model.parameters()).dtype),
            tokenizer=tokenizer_digest(tokenizer),
        ),
        score,
        count=len(split_units(template)),
    )


def _score_with_classifier(template: Template, uri: str, s3: S3Options | None, cache: ScoreCache) -> list[float]:
    import torch

    from promptintern.models.fetch import fetch_model

    folder = fetch_model(uri, s3=s3, field=FIELD)

    def score() -> list[float]:
        model, tokenizer = load_classifier(folder.path)
        return llmlingua2_scores(template, model, tokenizer)

    return cache.get(
        cache_key(kind="LLMLingua2", template=_identity(template), model=folder.digest(), dtype=str(torch.float32)),
        score,
        count=len(split_units(template)),
    )


def _identity(template: Template) -> list[tuple[str, str]]:
    """Return the kind and text of each piece of ``template``, which determine the scores that a model gives it."""
    return [(piece.kind.value, piece.text) for piece in template.pieces]
