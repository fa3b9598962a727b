"""The sample worlds are deterministic, split cleanly, and answerable from the template's text alone."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.errors import UserError
from promptintern.sample import sample_model_path, sample_rows, sample_template, sample_world
from promptintern.sample.words import AGGREGATES, NOUNS, REGIONS
from promptintern.sample.worlds import Split, iterate_questions, make_world, split_of

WORLDS = st.integers(min_value=0, max_value=10_000)


def answer_by_reading(template: str, query: str) -> str:
    """Answer by an independent method that uses only the texts: look up each word in the lists of the template."""
    listed = {
        title: dict(re.findall(r"(\w+)=(\w+)", re.search(rf"^{title}: (.*)\.$", template, re.MULTILINE)[1]))
        for title in ("Columns", "Functions", "Places")
    }
    left, right = re.search(r"between (\S) and (\S) with", template).groups()
    separator = re.search(r"(?:Use|Put) (\S) between", template)[1]
    mark = re.search(r"(?:add|write) (\S) and", template)[1]
    words = re.findall(r"[A-Za-z]+|\d+", query)
    arguments = [listed["Columns"][w] for w in words if w in listed["Columns"]]
    arguments += [w for w in words if w.isdigit()]
    (function,) = (listed["Functions"][w] for w in words if w in listed["Functions"])
    places = [listed["Places"][w] for w in words if w in listed["Places"]]
    return function + left + separator.join(arguments) + right + "".join(mark + place for place in places)


@settings(max_examples=60)
@given(world=WORLDS)
def test_template_says_all_that_the_answers_need(world: int) -> None:
    template = sample_template(world)
    rows = sample_rows(f"sample://formulas/train?world={world}&rows=24")
    assert [answer_by_reading(template, row["query"]) for row in rows] == [row["answer"] for row in rows]


@settings(max_examples=30)
@given(world=WORLDS)
def test_train_and_eval_share_no_question_in_any_wording(world: int) -> None:
    made = make_world(f"formulas/{world}")
    train, held_out = ({q.meaning for q, _ in zip(iterate_questions(made, s), range(200), strict=False)} for s in Split)
    assert len(train) == len(held_out) == 200
    assert not train & held_out
    queries = [
        {row["query"].casefold() for row in sample_rows(f"sample://formulas/{split}?world={world}&rows=200")}
        for split in Split
    ]
    assert [len(q) for q in queries] == [200, 200]
    assert not queries[0] & queries[1]


@given(world=WORLDS)
def test_template_holds_each_placeholder_once_and_ends_with_the_cue(world: int) -> None:
    template = sample_template(world)
    assert template.count("{query}") == template.count("{examples}") == 1
    assert template.endswith("{examples}{query}\n=")
    assert template.count("\n=") == 1


def test_same_world_every_time() -> None:
    """The text is fixed, because a change would change all published figures and require new weights."""
    rows = sample_rows("sample://formulas/train?world=1&rows=3")
    assert rows[0] == {
        "id": "w1-train-0",
        "query": "In the north, what is the highest bonus and miles?",
        "answer": "GATE(KF,CP)~TK",
    }
    assert rows == sample_rows("sample://formulas/train?world=1&rows=128")[:3]
    assert sample_template(1) != sample_template(2)


@pytest.mark.parametrize("world", range(5))
def test_a_few_rows_show_most_of_the_language(world: int) -> None:
    made = sample_world(world)
    text = " ".join(row["query"] for row in sample_rows(f"sample://formulas/train?world={world}&rows=32"))
    words = set(re.findall(r"\w+", text))
    assert set(made.columns) | set(made.functions) | set(made.regions) <= words


def test_word_lists_do_not_overlap() -> None:
    everything = [*NOUNS, *AGGREGATES, *REGIONS]
    assert len(everything) == len(set(everything))


def test_splits_are_about_three_to_one() -> None:
    made = sample_world(3)
    train = sum(1 for q in iterate_questions(made, Split.TRAIN) if split_of(made, q) is Split.TRAIN)
    held_out = sum(1 for _ in iterate_questions(made, Split.EVAL))
    assert 2.5 < train / held_out < 6


@pytest.mark.parametrize(
    "uri",
    [
        "sample://formulas",
        "sample://poems/train?world=1&rows=2",
        "sample://formulas/test?world=1&rows=2",
        "sample://formulas/train?world=-1&rows=2",
        "sample://formulas/train?world=1&rows=two",
        "sample://formulas/train?planet=1",
        "sample://formulas/train?world=1&rows=0",
        "sample://formulas/train?world=1&rows=999999",
    ],
)
def test_unknown_data_is_a_users_error(uri: str) -> None:
    with pytest.raises(UserError, match=re.escape(uri)):
        sample_rows(uri)


def test_an_unknown_model_lists_the_available_ones() -> None:
    with pytest.raises(UserError, match="available are the model sample://formulas"):
        sample_model_path("sample://poems")
    assert isinstance(sample_model_path("sample://formulas"), Path)
