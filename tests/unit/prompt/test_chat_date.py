"""Chat templates that write today's date, as those of published models do."""

import pytest
from promptintern.prompt.chat_date import OTHER_DATE, date_text, settle_date
from transformers.utils.chat_template_utils import render_jinja_template

WITH_OPTION = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n" }}"""
IN_A_MACRO = "{% macro today() %}{{ strftime_now('%A, %-d %B %Y') }}{% endmacro %}{{ today() }}"
WITH_TIME = "{%- set now = strftime_now('%Y-%m-%d %H:%M') -%}{{ now }}"
BUILT = "{{ strftime_now('%d' ~ '.%m.') }}"
SPACED = "{{ strftime_now ('%Y-%m-%d %H:%M:%S') }}"
RENAMED = "{% set now = strftime_now %}{{ now('%d.%m.%Y') }}"
IN_A_VARIABLE = "{% set f = '%B' %}{{ strftime_now(f) | upper }}"
COUNTED = "{{ strftime_now('%Y') | int + 1 }}"
BY_NAME = "{{ strftime_now(format='%H:%M') }}"


def render(template: str, **options: str) -> str:
    (text,), _ = render_jinja_template([[{"role": "user", "content": "ask"}]], chat_template=template, **options)
    return str(text)


@pytest.mark.parametrize(
    ("template", "text", "date"),
    [
        (WITH_OPTION, "Today Date: 01 Jan 2025\n", "01 Jan 2025"),
        (IN_A_MACRO, "Wednesday, 1 January 2025", "Wednesday, 1 January 2025"),
        (WITH_TIME, "2025-01-01 00:00", "2025-01-01 00:00"),
        (BUILT, "01.01.", "2025-01-01"),
        (SPACED, "2025-01-01 00:00:00", "2025-01-01 00:00:00"),
        (RENAMED, "01.01.2025", "2025-01-01"),
        (IN_A_VARIABLE, "JANUARY", "2025-01-01"),
        (COUNTED, "2026", "2025"),
        (BY_NAME, "00:00", "2025-01-01"),
    ],
)
def test_the_date_is_the_same_every_day(template: str, text: str, date: str) -> None:
    assert render(settle_date(template)) == text
    assert render(settle_date(template, OTHER_DATE)) != text
    assert date_text(template) == date


@pytest.mark.parametrize("before", ["", "\n  ", "  ", "\n\n"])
def test_the_rest_of_the_template_is_unchanged(before: str) -> None:
    template = before + "{% if true %}\n  a {% endif %}\n{{ strftime_now('%d') }} b\n"
    assert render(settle_date(template)) == render(template.replace("strftime_now('%d')", "'01'"))


def test_a_request_can_give_the_date_that_was_trained_with() -> None:
    assert render(WITH_OPTION, date_string=date_text(WITH_OPTION)) == render(settle_date(WITH_OPTION))


def test_a_template_without_a_date_is_unchanged() -> None:
    assert settle_date("{{ messages[0].content }}") == "{{ messages[0].content }}"
