"""From spec.prompt to something that compresses the template to a rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from promptintern_api.prompt import CompressorKind, PromptSpec

from promptintern.compress.cache import ScoreCache, cache_key, tokenizer_digest
from promptintern.compress.ranked import (
    CompressedTemplate,
    RankedTemplate,
    count_tokens,
    measured,
    rank_units,
    split_units,
    uncompressed,
)
from promptintern.compress.scores import llmlingua2_scores, self_information_scores
from promptintern.errors import Problem, UserError
from promptintern.models import cache_root
from promptintern.prompt.template import Template, parse_template
from promptintern.storage.options import S3Options

CLASSIFIER_FIELD = "spec.prompt.compressor.modelUri"
TEMPLATES_FIELD = "spec.prompt.compressor.templates"
RATE_TOLERANCE = 1e-3
"""How far the rate of a Precomputed template may be from the stage's: ``0.333`` serves 1/3."""


class Compressor(Protocol):
    """Something that has the template at every rate of the schedule."""

    def compress(self, rate: float) -> CompressedTemplate:
        """The template at ``rate``, 0 to 1."""
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
    """The compressor that ``spec`` asks for. Nothing is scored before a rate between 0 and 1 is asked for.

    Args:
        tokenizer: The training model's, in whose tokens rates are counted.
        model: The job's base model, for SelfInformation.
        model_digest: What identifies the base model in the cache; without it SelfInformation is not cached.
        s3: How an LLMLingua2 model in S3 is reached.
        cache_dir: Default: ``promptintern/compress`` in the user's cache folder.

    Raises:
        UserError: if the template or a Precomputed one is wrong.
    """
    template = parse_template(spec.template, spec.protect)
    if spec.compressor.kind is CompressorKind.PRECOMPUTED:
        return PrecomputedTemplates(full=template, by_rate=_parse_precomputed(spec), tokenizer=tokenizer)
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
    """A template that is scored and ranked when a rate first needs it."""

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
        """The template at ``rate``. Rates 0 and 1 need no scores, so no model either."""
        if rate in (0, 1):
            return self._with_ranking(range(len(split_units(self.template)))).compress(rate)
        return self._ranked.compress(rate)


@dataclass(frozen=True, kw_only=True)
class PrecomputedTemplates:
    """The user's own text for each rate."""

    full: Template
    by_rate: dict[float, Template]
    tokenizer: Any

    def compress(self, rate: float) -> CompressedTemplate:
        """The text that the user wrote for ``rate``; at rate 1 the template itself, unless one is given.

        Raises:
            UserError: if there is none.
        """
        template = _nearest(self.by_rate, rate)
        if template is None and rate >= 1:
            return uncompressed(self.full, self.tokenizer)
        if template is None:
            raise UserError([_missing(rate, self.by_rate)])
        return measured(
            template.pieces,
            rate=rate,
            tokens=count_tokens(template.pieces, self.tokenizer),
            full_tokens=count_tokens(self.full.pieces, self.tokenizer),
        )


def check_precomputed(spec: PromptSpec, rates: Sequence[float]) -> None:
    """Whether a Precomputed compressor has a right template for each of ``rates``. Other compressors always have.

    Raises:
        UserError: naming every rate that has none.
    """
    if spec.compressor.kind is not CompressorKind.PRECOMPUTED:
        return
    by_rate = _parse_precomputed(spec)
    missing = [rate for rate in dict.fromkeys(rates) if rate < 1 and _nearest(by_rate, rate) is None]
    if missing:
        raise UserError([_missing(rate, by_rate) for rate in missing])


def _missing(rate: float, by_rate: dict[float, Template]) -> Problem:
    there = ", ".join(f"{known:g}" for known in sorted(by_rate, reverse=True))
    return Problem(
        where=TEMPLATES_FIELD,
        message=f"has no template for rate {rate:g}, which the schedule asks for; there are templates for {there}",
    )


def _nearest(by_rate: dict[float, Template], rate: float) -> Template | None:
    near = min(by_rate, key=lambda known: abs(known - rate), default=None)
    return by_rate[near] if near is not None and abs(near - rate) <= RATE_TOLERANCE else None


def _parse_precomputed(spec: PromptSpec) -> dict[float, Template]:
    by_rate: dict[float, Template] = {}
    problems: list[Problem] = []
    for index, given in enumerate(spec.compressor.templates or []):
        field = f"{TEMPLATES_FIELD}[{index}].template"
        try:
            template = parse_template(given.template, spec.protect, field=field)
        except UserError as error:
            problems += error.problems
            continue
        if given.rate in by_rate:
            problems.append(
                Problem(where=f"{TEMPLATES_FIELD}[{index}].rate", message=f"{given.rate:g} stands there twice")
            )
        by_rate[given.rate] = template
    if problems:
        raise UserError(problems)
    return by_rate


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

    from promptintern.models import fetch_model

    folder = fetch_model(uri, s3=s3, field=CLASSIFIER_FIELD)

    def score() -> list[float]:
        model, tokenizer = load_classifier(folder.path)
        return llmlingua2_scores(template, model, tokenizer)

    return cache.get(
        cache_key(kind="LLMLingua2", template=_identity(template), model=folder.digest(), dtype=str(torch.float32)),
        score,
        count=len(split_units(template)),
    )


def load_classifier(path: Path) -> tuple[Any, Any]:
    """A token classification model in float32 on the CPU, and its fast tokenizer.

    Raises:
        UserError: if the folder holds none.
    """
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        model, info = AutoModelForTokenClassification.from_pretrained(
            path,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 -- every loader fails in its own way; the user needs the field
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError.at(CLASSIFIER_FIELD, f"the token classifier in {path} cannot be loaded: {first}") from None
    if info["missing_keys"]:
        raise UserError.at(
            CLASSIFIER_FIELD,
            f"{path} holds no trained token classifier: its weights lack {sorted(info['missing_keys'])[0]}",
        )
    if not tokenizer.is_fast:
        raise UserError.at(CLASSIFIER_FIELD, f"the tokenizer in {path} is no fast one (tokenizer.json is missing)")
    return model.eval(), tokenizer


def _identity(template: Template) -> list[tuple[str, str]]:
    """What scores depend on besides the models: text, protected spans and where placeholders stand."""
    return [(piece.kind.value, piece.text) for piece in template.pieces]
