"""Compressors that a job configures, and their cache."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from promptintern.compress import build_compressor, check_precomputed
from promptintern.compress.cache import ScoreCache, cache_key
from promptintern.errors import UserError
from promptintern.schedule import Stage
from promptintern_api.prompt import PromptSpec

from tests.tiny import write_tiny_model

TEMPLATE = "Translate this into one command, please.\n{examples}{query}\nBash:"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder: Path = write_tiny_model(tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def precomputed(*templates: tuple[float, str], protect: tuple[str, ...] = ()) -> PromptSpec:
    return PromptSpec.model_validate(
        {
            "template": TEMPLATE,
            "protect": list(protect),
            "compressor": {
                "kind": "Precomputed",
                "templates": [{"rate": rate, "template": text} for rate, text in templates],
            },
        }
    )


def test_self_information_from_spec_to_text(base: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = base
    spec = PromptSpec(template=TEMPLATE, protect=["\nBash:"])
    compressor = build_compressor(spec, tokenizer=tokenizer, model=model, model_digest="m", cache_dir=tmp_path)
    half = compressor.compress(0.5)
    assert half.text.endswith("{examples}{query}\nBash:")
    assert 0 < half.achieved_rate <= 0.5
    (file,) = tmp_path.iterdir()
    again = build_compressor(spec, tokenizer=tokenizer, model=model, model_digest="m", cache_dir=tmp_path)
    file.write_text("{broken")
    assert again.compress(0.5) == half
    assert json.loads(file.read_text())["scores"]


def test_rates_zero_and_one_need_no_model(base: tuple[Any, Any], tmp_path: Path) -> None:
    compressor = build_compressor(PromptSpec(template=TEMPLATE), tokenizer=base[1], cache_dir=tmp_path)
    assert compressor.compress(1).text == TEMPLATE
    assert compressor.compress(0).text == "{examples}{query}"


def test_what_is_cached_is_used(base: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = base
    spec = PromptSpec(template="keep drop {query}")
    build_compressor(spec, tokenizer=tokenizer, model=model, model_digest="m", cache_dir=tmp_path).compress(0.6)
    (file,) = tmp_path.iterdir()
    for scores, text in (([1.0, 0.0, 0.0], "keep{query}"), ([0.0, 1.0, 0.0], " drop{query}")):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"scores": scores}))
        compressor = build_compressor(spec, tokenizer=tokenizer, model=model, model_digest="m", cache_dir=tmp_path)
        assert compressor.compress(0.5).text == text
    other = build_compressor(spec, tokenizer=tokenizer, model=model, model_digest="other", cache_dir=tmp_path)
    other.compress(0.6)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, '{"key": "k", "scores": [1, null]}', '{"key": "k", "scores": [1.0]}', "\x00"]
)
def test_a_cache_file_that_is_not_right_is_computed_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "k.json").write_text(content)
    cache = ScoreCache(folder=tmp_path)
    assert cache.get("k", lambda: [1.0, 2.0], count=2) == [1.0, 2.0]
    assert cache.get("k", lambda: pytest.fail("not cached"), count=2) == [1.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["k.json"]


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ScoreCache(folder=tmp_path / "file" / "sub").get("k", lambda: [1.0], count=1) == [1.0]


def test_cache_keys_tell_parts_apart() -> None:
    keys = {cache_key(a="1", b="2"), cache_key(a="2", b="1"), cache_key(a="12", b=""), cache_key(a=["1", "2"], b="")}
    assert len(keys) == 4


def test_precomputed_templates_are_taken_by_rate(base: tuple[Any, Any]) -> None:
    spec = precomputed((0.333, "Bash! {examples}{query}"), (0, "{query}"))
    compressor = build_compressor(spec, tokenizer=base[1])
    assert compressor.compress(1).text == TEMPLATE
    third = compressor.compress(0.3333)
    assert third.text == "Bash! {examples}{query}"
    assert third.achieved_rate == len("Bash! ") / len(TEMPLATE.replace("{examples}{query}", ""))
    assert compressor.compress(0).tokens == 0


def stages(*rates: float, shots: Sequence[int] = ()) -> list[Stage]:
    return [
        Stage(index=i, rate=rate, shots=k, epochs=1)
        for i, (rate, k) in enumerate(zip(rates, shots or [0] * len(rates), strict=True))
    ]


def test_a_missing_rate_is_named(base: tuple[Any, Any]) -> None:
    spec = precomputed((0.5, "{query}"), (0, "{query}"))
    with pytest.raises(UserError, match=r"no template for rate 0\.25.*templates for 0\.5, 0"):
        build_compressor(spec, tokenizer=base[1]).compress(0.25)
    with pytest.raises(UserError) as caught:
        check_precomputed(spec, stages(1, 0.75, 0.5, 0.25, 0))
    assert [problem.message[:25] for problem in caught.value.problems] == [
        "has no template for rate 0.75"[:25],
        "has no template for rate 0.25"[:25],
    ]


def test_precomputed_templates_must_hold_protected_text() -> None:
    spec = precomputed((0.5, "{query}\nBash:"), (0, "{query}"), protect=("\nBash:",))
    with pytest.raises(UserError, match=r"templates\[1\]\.template"):
        check_precomputed(spec, stages(1, 0.5, 0))


def test_a_rate_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"templates\[1\]\.rate: the rate 0 is given twice"):
        check_precomputed(precomputed((0, "{query}"), (0, "x{query}")), stages(0))


def test_a_stage_with_examples_needs_a_template_with_room_for_them() -> None:
    spec = precomputed((0.5, "{query}"), (0, "{query}"))
    with pytest.raises(UserError, match=r"template for rate 0\.5 lacks \{examples\}, but its stage has 2 shots"):
        check_precomputed(spec, stages(1, 0.5, 0, shots=(3, 2, 0)))
    check_precomputed(spec, stages(1, 0.5, 0, shots=(3, 0, 0)))
