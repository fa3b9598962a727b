"""Differences between answers that exact match can ignore."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.evaluate.normalizers import normalise
from promptintern_api.metrics import Normalizer

EVERY = list(Normalizer)


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("  a\n b ", [], "a b"),
        ("\uff21\ufb01", [Normalizer.UNICODE], "Afi"),
        ("Straße", [Normalizer.CASE], "strasse"),
        ("don't, stop!", [Normalizer.PUNCTUATION], "dont stop"),
        ("The cat and a hat, theory", [Normalizer.ARTICLES], "cat and hat, theory"),
        ("Sure:\n```sql\nSELECT 1\n```\nDone.", [Normalizer.CODE_FENCE], "SELECT 1"),
        ("```\ncut", [Normalizer.CODE_FENCE], "cut"),
        ("Here: the ``` is none", [Normalizer.CODE_FENCE], "Here: the ``` is none"),
        ("```\nThe SUM.\n```", EVERY, "sum"),
        ("", EVERY, ""),
    ],
)
def test_each_normalizer_ignores_what_it_says(text: str, names: list[Normalizer], expected: str) -> None:
    assert normalise(text, names) == expected


@given(st.text(), st.permutations(EVERY), st.integers(0, len(EVERY)))
def test_the_order_in_the_job_does_not_matter(text: str, order: list[Normalizer], count: int) -> None:
    names = order[:count]
    assert normalise(text, names) == normalise(text, names[::-1])


@given(st.text(), st.lists(st.sampled_from(EVERY), unique=True))
def test_white_space_is_even(text: str, names: list[Normalizer]) -> None:
    found = normalise(text, names)
    assert found == " ".join(found.split())
