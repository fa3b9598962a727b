"""The entries of a template that no training row mentions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.prompt.coverage import list_entries, sentences, uncovered_entries, without_sentence
from promptintern.sample import sample_rows, sample_template, sample_world


@pytest.mark.parametrize(
    ("template", "entries"),
    [
        ("Columns: claims=KD, bonus=KF, days=MF.", ["claims=KD", "bonus=KF", "days=MF"]),
        ("claims; bonus; days", ["claims", "bonus", "days"]),
        ("a\n- red\n- dark green\n- blue\nb", ["red", "dark green", "blue"]),
        ("1. red\n2) green\n3. blue", ["red", "green", "blue"]),
        ("Colours: red, green", []),  # two items are no list
        ("Read the question, look up every word in the lists below, and write one formula.", []),
        ("- Write the function first.\n- Do not explain the formula.\n- Write nothing after the formula.", []),
        ("a=1, b=2, c=3\nd=4, a=1, e=5", ["a=1", "b=2", "c=3", "d=4", "e=5"]),
        ("", []),
        (", , ,", []),
    ],
)
def test_entries_of_lists(template: str, entries: list[str]) -> None:
    assert list_entries(template) == entries


def test_an_entry_is_covered_by_any_of_its_own_words() -> None:
    template = "Columns: claims=KD, bonus=KF, days=MF."
    assert uncovered_entries(template, ["the CLAIMS", "f(KF)"]) == ["days=MF"]
    assert uncovered_entries(template, []) == ["claims=KD", "bonus=KF", "days=MF"]


def test_a_word_that_several_entries_have_covers_none_of_them() -> None:
    template = "net sales, net price, net weight, net"
    assert uncovered_entries(template, ["net sales"]) == ["net price", "net weight"]


@pytest.mark.parametrize("world", range(2000, 2005))
def test_hidden_nouns_of_a_sample_world_are_named_and_no_others(world: int) -> None:
    columns = sample_world(world).columns
    hidden = list(columns)[::5]
    rows = sample_rows(f"sample://formulas/train?world={world}&rows=1000")
    kept = [row for row in rows if not any(noun in row["query"] for noun in hidden)]
    assert len(kept) > 100
    texts = [text for row in kept for text in (row["query"], row["answer"])]
    assert uncovered_entries(sample_template(world), texts) == [f"{noun}={columns[noun]}" for noun in hidden]


@given(st.text(max_size=200), st.lists(st.text(max_size=50), max_size=5))
def test_uncovered_entries_are_entries_and_more_text_covers_more(template: str, texts: list[str]) -> None:
    uncovered = uncovered_entries(template, texts)
    assert set(uncovered) <= set(list_entries(template))
    assert set(uncovered_entries(template, [*texts, template])) <= set(uncovered)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Write one command. Do not explain it!\nRequest: {query}", ["Write one command.", "Do not explain it!"]),
        ("You are a helper.\n{examples}\nAnswer the question {query} now.\nBash:", ["You are a helper."]),
        ("Columns: claims=KD, bonus=KF, days=MF.\nKeep the order.\nKeep the order.", ["Keep the order."]),
        ("Version 3.5 of the tool is used here", ["Version 3.5 of the tool is used here"]),
        ("", []),
    ],
)
def test_sentences_of_a_template(template: str, expected: list[str]) -> None:
    assert sentences(template) == expected


@given(st.text(max_size=200))
def test_a_sentence_is_a_part_of_its_template(template: str) -> None:
    assert all(sentence in template and sentence == sentence.strip() for sentence in sentences(template))


def test_only_the_sentence_itself_is_removed() -> None:
    template = "Use the table.\nUse the table. Use the table.below\nGo."
    assert without_sentence("Use the table\nUse the table below only for dates", "Use the table") == (
        "\nUse the table below only for dates"
    )
    assert without_sentence(template, "Use the table.") == "\n Use the table.below\nGo."
