"""Compression: rates nest, token counts are the tokenizer's, and protected text and placeholders are kept."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptintern.compress import RankedTemplate, count_tokens, rank_units, split_units, uncompressed
from promptintern.prompt.template import LITERAL, PROTECTED, Piece, parse_template

TEXT = (
    "You translate English into one Bash command. Use {braces} and   spaces freely.\n\n"
    "{examples}Answer with the command only, never explain it.\nEnglish: {query}\nBash:"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Byte-pair tokens learned from the text itself, so that words share tokens and some merge across spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def ranked(tokenizer: Any, scores: list[float] | None = None, text: str = TEXT) -> RankedTemplate:
    template = parse_template(text, ["\nBash:"] if "\nBash:" in text else [])
    units = split_units(template)
    ranking = rank_units(scores if scores is not None else [float(i * 7 % 11) for i in range(len(units))])
    return RankedTemplate(template=template, units=units, ranking=ranking, tokenizer=tokenizer)


UNITS = len(split_units(parse_template(TEXT, ["\nBash:"])))


def kept_units(template: RankedTemplate, rate: float) -> set[tuple[int, str]]:
    """Return the words that a rate keeps, each with the number of its earlier occurrences."""
    words = " ".join(p.text for p in template.compress(rate).pieces if p.kind is LITERAL).split()
    return {(words[:i].count(word), word) for i, word in enumerate(words)}


def test_units_are_words_with_the_space_before_them() -> None:
    template = parse_template("a  b\n{query} c\n 日本", [])
    assert [unit.text for unit in split_units(template)] == ["a", "  b", "\n", " c", "\n 日", "本"]
    assert [template.plain_text[unit.start : unit.end] for unit in split_units(template)] == [
        unit.text for unit in split_units(template)
    ]


def test_rate_one_is_the_text_unchanged(tokenizer: Any) -> None:
    whole = ranked(tokenizer).compress(1)
    assert whole.text == TEXT
    assert (whole.achieved_rate, whole.tokens) == (1.0, whole.full_tokens)
    assert whole.full_tokens == uncompressed(parse_template(TEXT, ["\nBash:"]), tokenizer).full_tokens


def test_rate_zero_leaves_placeholders_and_protected_text(tokenizer: Any) -> None:
    empty = ranked(tokenizer).compress(0)
    assert empty.text == "{examples}{query}\nBash:"
    assert empty.tokens == len(tokenizer("\nBash:")["input_ids"])
    assert ranked(tokenizer, text="Say: {query}").compress(0).text == "{query}"


def test_protected_text_stays_even_beyond_the_rate(tokenizer: Any) -> None:
    tiny = ranked(tokenizer).compress(0.01)
    assert tiny.text == "{examples}{query}\nBash:"
    assert tiny.achieved_rate > 0.01


def test_the_best_ranked_words_are_kept_in_their_order(tokenizer: Any) -> None:
    scores = [0.0] * UNITS
    scores[4], scores[1] = 9.0, 8.0  # " one" of "into one" comes before " translate" in rank, after it in the text
    short = ranked(tokenizer, scores)
    assert "".join(piece.text for piece in short.keep(2) if piece.kind is LITERAL) == " translate one"


def test_ties_are_ranked_by_position() -> None:
    assert rank_units([1.0, 2.0, 2.0, 0.5]) == [1, 2, 0, 3]


def test_the_prefix_is_the_longest_that_fits(tokenizer: Any) -> None:
    template = ranked(tokenizer)
    budget = 0.5 * template.full_tokens
    counts = [count_tokens(template.keep(n), tokenizer) for n in range(len(template.units) + 1)]
    assert template.compress(0.5).tokens == max(count for count in counts if count <= budget)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    scores=st.lists(st.floats(0, 20), min_size=UNITS, max_size=UNITS),
    rates=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_a_lower_rate_keeps_part_of_what_a_higher_one_keeps(
    tokenizer: Any, scores: list[float], rates: list[float]
) -> None:
    template = ranked(tokenizer, scores)
    low, high = (template.compress(rate) for rate in rates)
    assert kept_units(template, rates[0]) <= kept_units(template, rates[1])
    assert low.tokens <= high.tokens or low.achieved_rate <= rates[0]
    protected = count_tokens([Piece(text="\nBash:", kind=PROTECTED)], tokenizer)
    for rate, compressed in zip(rates, (low, high), strict=True):
        assert compressed.tokens <= max(rate * compressed.full_tokens, protected)
        assert compressed.tokens == count_tokens(compressed.pieces, tokenizer)
        assert [p.text for p in compressed.pieces if p.kind is not LITERAL] == ["{examples}", "{query}", "\nBash:"]
