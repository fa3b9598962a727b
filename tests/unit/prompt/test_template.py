"""Parsing templates: no text is lost, braces are kept, and protected spans are found."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.errors import UserError
from promptintern.prompt.template import EXAMPLES, LITERAL, PROTECTED, QUERY, parse_template, text_runs


def test_pieces_of_a_template_with_literal_braces() -> None:
    template = parse_template('Schema {"a": {b}} {answer}\n{examples}Q: {query}\nA:', ["\nA:"])
    assert [(piece.kind, piece.text) for piece in template.pieces] == [
        (LITERAL, 'Schema {"a": {b}} {answer}\n'),
        (EXAMPLES, "{examples}"),
        (LITERAL, "Q: "),
        (QUERY, "{query}"),
        (PROTECTED, "\nA:"),
    ]
    assert template.plain_text == 'Schema {"a": {b}} {answer}\nQ: \nA:'
    assert text_runs(template.pieces) == ['Schema {"a": {b}} {answer}\n', "Q: ", "\nA:"]


def test_every_occurrence_is_protected_and_overlaps_join() -> None:
    template = parse_template("aXbc X aab {query}", ["X", "Xb", "aa", "ab"])
    assert [piece.text for piece in template.pieces if piece.kind is PROTECTED] == ["Xb", "X", "aab"]


@pytest.mark.parametrize(
    ("text", "protect", "where", "words"),
    [
        ("no query", [], "spec.prompt.template", "{query} exactly once, not 0"),
        ("{query} {query}", [], "spec.prompt.template", "not 2 times"),
        ("{examples}{examples}{query}", [], "spec.prompt.template", "at most once"),
        ("a {query}", ["b"], "spec.prompt.protect[0]", "does not occur in the literal text"),
        ("a {query}", ["a", "{que"], "spec.prompt.protect[1]", "does not occur in the literal text"),
    ],
)
def test_a_wrong_template_is_refused_at_its_field(text: str, protect: list[str], where: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_template(text, protect)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert words in problem.message


WORDS = st.text(alphabet="ab {}\n", max_size=20).filter(lambda text: "{query}" not in text)


@given(before=WORDS, after=WORDS, data=st.data())
def test_pieces_joined_are_the_template_and_protected_spans_stand_whole(
    before: str, after: str, data: st.DataObject
) -> None:
    text = f"{before}{{query}}{after}"
    spans = [before[i:j] for i in range(len(before)) for j in range(i + 1, len(before) + 1)][:40]
    protect = data.draw(st.lists(st.sampled_from(spans), max_size=3)) if spans else []
    template = parse_template(text, protect)
    assert template.text == text
    for span in protect:
        assert any(span in piece.text for piece in template.pieces if piece.kind is PROTECTED)
    for a, b in pairwise(template.pieces):
        assert a.kind is not b.kind
