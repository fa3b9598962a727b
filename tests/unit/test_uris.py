"""Paths and URIs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.uris import display_uri, to_uri

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..") and "://" not in name and not name.startswith("~")
)


@given(NAMES)
def test_a_path_comes_back_from_its_uri(name: str) -> None:
    assert display_uri(to_uri(name, Path("/data"))) == f"/data/{name}"


@pytest.mark.parametrize("uri", ["s3://bucket/a b", "file:///data/a%20b", "sample://formulas", "hf://a/b@main"])
def test_a_uri_stays_as_it_is(uri: str) -> None:
    assert to_uri(uri) == uri


def test_a_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert to_uri("~/rows.jsonl") == "file:///home/someone/rows.jsonl"


def test_a_host_that_is_this_one_is_no_part_of_the_path() -> None:
    assert display_uri("file://localhost/data/a%20b") == "/data/a b"
    assert display_uri("file:///localhost/x") == "/localhost/x"
