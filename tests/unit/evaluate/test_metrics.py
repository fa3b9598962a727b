"""Exact match and BLEU against sacrebleu itself."""

import logging

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.evaluate.metrics import (
    bleu,
    bleu_of_statistics,
    bleu_per_row_statistics,
    exact_match,
)
from promptintern.evaluate.normalizers import normalise
from sacrebleu.metrics import BLEU

WORDS = st.lists(st.sampled_from(list("ab.,(|é数")), max_size=12).map(" ".join)
ROWS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=4)), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("prediction", "accepted", "score"),
    [
        ("ls -la", ["ls -la"], 1.0),
        ("  ls\t-la \n", ["ls -la"], 1.0),
        ("ls -la", ["find .", " ls  -la"], 1.0),
        ("LS -la", ["ls -la"], 0.0),  # case counts
        ("ls -la;", ["ls -la"], 0.0),  # so does punctuation
        ("ls-la", ["ls -la"], 0.0),  # and whether there is white space
        ("", ["ls"], 0.0),
        ("", [" "], 1.0),
    ],
)
def test_exact_match_forgives_white_space_only(prediction: str, accepted: list[str], score: float) -> None:
    assert exact_match([prediction], [accepted]) == [score]


def test_exact_match_goes_by_row() -> None:
    assert exact_match(["a", "b", "c"], [["a"], ["x", "b"], ["x"]]) == [1.0, 1.0, 0.0]


@given(st.text())
@settings(max_examples=50)
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize("metric", [exact_match, bleu, bleu_per_row_statistics])
@pytest.mark.parametrize(
    ("predictions", "accepted"), [(["a"], []), (["a"], [["a"], ["b"]]), (["a"], [[]]), (["a"], ["a"])]
)
def test_rows_that_do_not_fit_are_refused(metric: object, predictions: list[str], accepted: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="row"):
        metric(predictions, accepted)  # type: ignore[operator]


def test_bleu_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        bleu([], [])


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=10))
@settings(max_examples=30)
def test_bleu_is_sacrebleus_with_one_reference(rows: list[tuple[str, str]]) -> None:
    predictions, references = [p for p, _ in rows], [r for _, r in rows]
    assert bleu(predictions, [[r] for r in references]).score == sacrebleu.corpus_bleu(predictions, [references]).score


def test_rows_may_have_different_numbers_of_references() -> None:
    predictions = ["find . -name foo -type f", "ls -la | grep foo bar"]
    accepted = [["find . -name foo -type f", "find -name foo"], ["ls -l | grep foo bar"]]
    expected = sacrebleu.corpus_bleu(predictions, [[a[0] for a in accepted], ["find -name foo", None]])
    assert bleu(predictions, accepted).score == expected.score
    assert bleu(predictions, accepted).signature.startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert bleu(predictions, [a[:1] for a in accepted]).signature.startswith("nrefs:1|")


def test_a_further_reference_counts() -> None:
    prediction, wrong = ["find . -name foo -type f"], "ls -la | grep foo"
    assert bleu(prediction, [[wrong, prediction[0]]]).score == pytest.approx(100)
    assert bleu(prediction, [[wrong]]).score < 10


@given(ROWS)
@settings(max_examples=20)
def test_summed_row_statistics_give_the_corpus_score(rows: list[tuple[str, list[str]]]) -> None:
    predictions, accepted = [p for p, _ in rows], [a for _, a in rows]
    statistics = bleu_per_row_statistics(predictions, accepted)
    assert statistics.shape == (len(rows), 10)
    score = bleu_of_statistics(statistics.sum(axis=0, keepdims=True))[0]
    assert score == pytest.approx(bleu(predictions, accepted).score)


@given(ROWS, st.data())
@settings(max_examples=20)
def test_summed_row_statistics_give_the_score_of_any_rows(
    rows: list[tuple[str, list[str]]], data: st.DataObject
) -> None:
    drawn = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=20))
    predictions, accepted = [p for p, _ in rows], [a for _, a in rows]
    statistics = bleu_per_row_statistics(predictions, accepted)
    again = bleu([predictions[i] for i in drawn], [accepted[i] for i in drawn]).score
    assert bleu_of_statistics([statistics[drawn].sum(axis=0)])[0] == pytest.approx(again)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=4), st.integers(1, 40))
@settings(max_examples=100)
def test_the_formula_is_sacrebleus_for_any_counts(orders: list[tuple[int, int]], reference: int) -> None:
    matched, total = [min(pair) for pair in orders], [max(pair) for pair in orders]
    length = total[0]
    expected = BLEU.compute_bleu(
        correct=list(matched), total=list(total), sys_len=length, ref_len=reference, smooth_method="exp"
    )
    assert bleu_of_statistics([[length, reference, *matched, *total]])[0] == pytest.approx(expected.score)


def test_text_that_looks_tokenized_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bleu(["find ."] * 150, [["find ."]] * 150)
    assert caplog.records == []
