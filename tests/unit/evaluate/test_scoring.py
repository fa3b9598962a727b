"""Metrics as statistics of rows: chrF against sacrebleu, templates of Bash commands, and pass@1."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.evaluate.bash_template import template_match, template_of
from promptintern.evaluate.chrf import chrf_of_statistics, chrf_per_row_statistics, chrf_signature
from promptintern.evaluate.scoring import Answers, is_within_drop, row_statistics, score_answers
from promptintern_api.metrics import Metric, Normalizer
from sacrebleu.metrics import CHRF

TEXTS = st.text("ab c", max_size=20)


@given(st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=8))
def test_chrf_is_sacrebleus(rows: list[tuple[str, str]]) -> None:
    predictions, answers = [row[0] for row in rows], [row[1] for row in rows]
    sums = chrf_per_row_statistics(predictions, [[answer] for answer in answers]).sum(axis=0)
    expected = CHRF().corpus_score(predictions, [answers]).score
    assert chrf_of_statistics(sums[None, :])[0] == pytest.approx(expected)


def test_the_best_of_several_answers_counts_for_chrf() -> None:
    accepted = [["ls -l", "find . -type f"]]
    answers = Answers(predictions=["find . -type f"], accepted=accepted)
    assert score_answers(Metric.CHRF, answers) == pytest.approx(100)
    signature = chrf_signature(answers.predictions, answers.accepted)
    assert "nc:6" in signature and signature.startswith("nrefs:2|")


@pytest.mark.parametrize(
    ("command", "template"),
    [
        ("tar -xzf a.tgz -C b", "tar -xzf ARG -C ARG"),
        ("head -n5 f | sort -r > out", "head -n ARG ARG | sort -r > ARG"),
        ("head -5 f", "head ARG ARG"),
        ("grep --include=*.c -r foo .", "grep --include ARG -r ARG ARG"),
        ("find . -name '*.c' -exec grep -l x {} \\;", "find ARG -name ARG -exec grep -l ARG ARG ARG"),
        ('echo "$(date +%s) x"', "echo $( date ARG )"),
        ("diff <(sort a) <(sort b)", "diff <( sort ARG ) <( sort ARG )"),
        ("x=3; echo $x", "VAR = ARG ; echo ARG"),
        ("for i in *; do echo $i; done", "for VAR in ARG ; do echo ARG ; done"),
        ("[ -f a ] && ls 2>&1", "[ -f ARG ] && ls 2 >& ARG"),
        ("ls # all files", "ls"),
    ],
)
def test_templates(command: str, template: str) -> None:
    assert " ".join(template_of(command) or ()) == template


@pytest.mark.parametrize("command", ["", "   ", "(((", "echo 'x", "$(" * 5000])
def test_what_is_no_command_has_no_template(command: str) -> None:
    assert template_of(command) is None


@given(st.text(max_size=60))
def test_any_text_is_judged(text: str) -> None:
    assert template_match([text], [["ls -l"]]) in ([0.0], [1.0])
    assert template_match([text], [[text]]) == [1.0]


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("find /tmp -name x -type d", 0.0),
        ("find /tmp -type d -name 'a b'", 1.0),
        ("find . -type f", 0.0),
        ("ls -l /tmp", 1.0),
        ("find . -type d -name", 0.0),
    ],
)
def test_a_template_matches_any_accepted_answer(prediction: str, score: float) -> None:
    assert template_match([prediction], [["find . -type d -name x", "ls -l ."]]) == [score]


def test_pass_at_1_is_the_share_of_programs_that_passed() -> None:
    answers = Answers(predictions=["a", "b", "c", "d"], accepted=[["x"]] * 4, passed=[True, False, True, True])
    assert score_answers(Metric.PASS_AT_1, answers) == 0.75
    with pytest.raises(ValueError, match="which programs passed"):
        score_answers(Metric.PASS_AT_1, Answers(predictions=["a"], accepted=[["a"]]))


def test_the_own_score_is_the_mean_and_a_fault_counts_as_0() -> None:
    answers = Answers(predictions=["a"] * 4, accepted=[["x"]] * 4, numbers=[100.0, None, 50.0, 0.0])
    assert score_answers(Metric.SCORER, answers) == 37.5
    with pytest.raises(ValueError, match="numbers of the scorer"):
        score_answers(Metric.SCORER, Answers(predictions=["a"], accepted=[["a"]]))


def test_exact_match_ignores_what_the_job_names() -> None:
    answers = Answers(predictions=["The SUM."], accepted=[["sum"]])
    assert score_answers(Metric.EXACT_MATCH, answers) == 0
    named = replace(answers, normalizers=[Normalizer.ARTICLES, Normalizer.CASE, Normalizer.PUNCTUATION])
    assert score_answers(Metric.EXACT_MATCH, named) == 1


@pytest.mark.parametrize("metric", list(Metric))
def test_every_metric_has_statistics_and_a_range(metric: Metric) -> None:
    right = ["ls -l ."] * 2
    answers = Answers(predictions=right, accepted=[["ls -l ."]] * 2, passed=[True, True], numbers=[100.0, 100.0])
    assert len(row_statistics(metric, answers)) == 2
    assert score_answers(metric, answers) == pytest.approx(metric.largest if metric is not Metric.BLEU else 0)


def test_a_drop_is_a_share_of_the_range() -> None:
    assert is_within_drop(Metric.CHRF, 48, 50, 0.02)
    assert not is_within_drop(Metric.CHRF, 47.9, 50, 0.02)
    assert is_within_drop(Metric.PASS_AT_1, 0.48, 0.5, 0.02)
    assert not is_within_drop(Metric.PASS_AT_1, 0.47, 0.5, 0.02)
