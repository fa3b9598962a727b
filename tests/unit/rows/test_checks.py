"""Leaks and duplicates."""

import pytest
from promptintern.rows.checks import check_queries, check_rows
from promptintern.rows.duplicates import normalise_query
from promptintern.rows.types import Query, Row
from promptintern_api.data import OnProblem


def rows(name: str, *pairs: tuple[str, str]) -> list[Row]:
    return [
        Row(query=query, answer=answer, answers=(answer,), id=str(i), where=f"{name}:{i}")
        for i, (query, answer) in enumerate(pairs, start=1)
    ]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("List files.", "list  FILES"),
        (" a\tb\n", "a b"),
        ("wirklich groß?!", "WIRKLICH GROSS"),
        ("caf\u00e9", "cafe\u0301"),
        ("end . . .", "end"),
    ],
)
def test_queries_that_count_as_the_same(text: str, same: str) -> None:
    assert normalise_query(text) == normalise_query(same)


@pytest.mark.parametrize(("text", "other"), [("a b", "ab"), ("?", "!"), (".x", "x"), ("x²", "x2"), ("ls *", "ls")])
def test_queries_that_are_different(text: str, other: str) -> None:
    assert normalise_query(text) != normalise_query(other)


def test_a_leak_names_both_rows() -> None:
    checked = check_rows(
        rows("train", ("a", "1"), ("Same one.", "2"), ("same ONE", "2")),
        rows("dev", ("b", "1"), ("same one", "9")),
        on_leak=OnProblem.ERROR,
    )
    assert [problem.where for problem in checked.problems] == ["dev:2", "dev:2"]
    assert "train:2" in checked.problems[0].message
    assert "train:3" in checked.problems[1].message
    assert checked.dropped_leaks == 0


def test_leaks_are_dropped_from_training_and_counted() -> None:
    train = rows("train", ("a", "1"), ("same one.", "2"), ("Same one", "3"))
    checked = check_rows(train, rows("dev", ("same one", "9")), on_leak=OnProblem.DROP)
    assert (checked.train, checked.dropped_leaks, checked.problems) == (train[:1], 2, [])
    assert checked.warnings == []  # the duplicates were dropped as leaks


def test_dropping_every_row_is_a_problem() -> None:
    checked = check_rows(rows("train", ("a", "1")), rows("dev", ("A", "1")), on_leak=OnProblem.DROP)
    assert [str(problem) for problem in checked.problems] == [
        "spec.data.train: has no rows left, because every query is also in spec.data.eval"
    ]


def test_duplicates_are_counted_with_examples() -> None:
    same = [("q", "1"), ("Q", "1"), ("q.", "1 "), ("q?", "1")]
    checked = check_rows(rows("t", *same, ("x", "1"), ("X", "2")), [], on_leak=OnProblem.ERROR)
    assert checked.problems == []
    repeated, contradicting = checked.warnings
    assert repeated == (
        "3 training rows repeat an earlier row's query and answer: t:2 and t:1 ('Q'); t:3 and t:1 ('q.'); and 1 more"
    )
    assert contradicting.startswith("1 training row repeats an earlier row's query with a different answer")
    assert "t:6 and t:5 ('X')" in contradicting


def test_a_thousand_leaks_are_not_all_shown() -> None:
    pairs = [(f"q{i}", "a") for i in range(1000)]
    checked = check_rows(rows("train", *pairs), rows("dev", *pairs), on_leak=OnProblem.ERROR)
    assert len(checked.problems) == 21
    assert checked.problems[-1].message == "and 980 more such problems after this one"


def test_repeated_held_out_queries_give_a_warning() -> None:
    train = rows("t", ("a", "1"))
    held_out = rows("e", ("b", "1"), ("B ", "1"), ("c", "1"))
    (warning,) = check_rows(train, held_out, on_leak=OnProblem.ERROR).warnings
    assert "3 held-out rows have only 2 distinct queries" in warning


def asked(*texts: str) -> list[Query]:
    return [Query(query=text, id=str(i), where=f"log:{i}") for i, text in enumerate(texts, start=1)]


def test_a_leaked_query_names_both_places() -> None:
    checked = check_queries(asked("a", "Same."), [], rows("dev", ("same", "1")), on_leak=OnProblem.ERROR)
    (problem,) = checked.problems
    assert problem.where == "dev:1"
    assert "query log:2" in problem.message


def test_repeated_and_leaked_queries_are_dropped_and_counted() -> None:
    log = asked("a", "A.", "known", "leaked", "b")
    train, dev = rows("train", ("Known", "1")), rows("dev", ("leaked", "1"))
    checked = check_queries(log, train, dev, on_leak=OnProblem.DROP)
    assert [query.where for query in checked.queries] == ["log:1", "log:5"]
    assert (checked.dropped_leaks, checked.dropped_repeats, checked.problems) == (1, 2, [])


@pytest.mark.parametrize("where", ["train", "dev"])
def test_no_query_is_left(where: str) -> None:
    known = {"train": [], "dev": []} | {where: rows(where, ("a", "1"))}
    checked = check_queries(asked("a", "A"), known["train"], known["dev"], on_leak=OnProblem.DROP)
    (problem,) = checked.problems
    assert problem.where == "spec.data.queries"
    assert "has no rows left" in problem.message
