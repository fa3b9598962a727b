"""The body of a server-side apply means the same as JSON and as YAML."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from promptintern_api.apply import apply_body

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
"""The names of fields, which are far shorter than the 1,024 characters, escapes included, that YAML allows."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES))
def test_every_value_survives(manifest: dict[str, object]) -> None:
    body = apply_body(manifest)
    assert json.loads(body) == manifest
    assert yaml.load(body, yaml.CSafeLoader) == manifest


@pytest.mark.parametrize("text", ["🚀", "\\🚀", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe", "\U0010ffff", "é"])
def test_odd_characters_survive(text: str) -> None:
    """A character above U+FFFF was once escaped as two surrogates, which the API server's YAML parser refuses."""
    body = apply_body({"message": text})
    assert json.loads(body) == yaml.safe_load(body) == {"message": text}
