"""Rendering takes a single pass, so placeholders in queries remain text."""

import pytest
from promptintern.errors import UserError
from promptintern.prompt.render import render_prompt
from promptintern.prompt.template import parse_template
from promptintern.rows.types import Row


def row(query: str, answer: str) -> Row:
    return Row(query=query, answer=answer, answers=(answer,), id="1", where="f:1")


def test_examples_stand_in_order_and_braces_stay() -> None:
    prompt = render_prompt(
        parse_template("Use {x}.\n{examples}Q: {query}\nA:"),
        query="what is {examples} or {query}?",
        examples=[row("{answer}", "one {query}"), row("two", "2")],
        example_template="Q: {query} {other}\nA: {answer}\n",
    )
    assert prompt == (
        "Use {x}.\nQ: {answer} {other}\nA: one {query}\nQ: two {other}\nA: 2\nQ: what is {examples} or {query}?\nA:"
    )


def test_no_examples_leave_nothing() -> None:
    template = parse_template("{examples}{query}")
    assert render_prompt(template, query="q", examples=[], example_template="{query}{answer}") == "q"


def test_examples_without_a_place_are_refused() -> None:
    with pytest.raises(UserError, match=r"no \{examples\}"):
        render_prompt(
            parse_template("{query}"), query="q", examples=[row("a", "b")], example_template="{query}{answer}"
        )
