"""Data files on a real S3 server: one key, a folder, and a pattern."""

import pytest
from promptintern.rows.load import LoadedRows, load_rows
from promptintern.rows.types import Row
from promptintern.storage.options import S3Options
from promptintern.storage.store import open_store
from promptintern_api.data import DataSource

from tests.unit.rows.test_files import record
from tests.unit.rows.test_formats import as_jsonl

KEYS = {
    "rows/train-00000.jsonl": as_jsonl([record(1), record(2)]),
    "rows/train-00001.jsonl": as_jsonl([record(3)]),
    "rows/_SUCCESS": b"",
    "rows/below/other.jsonl": as_jsonl([record(9)]),
    "rows.jsonl": as_jsonl([record(7)]),
    "odd/rows[1].jsonl": as_jsonl([record(8)]),
    "odd/rows1.jsonl": as_jsonl([record(0)]),
}


@pytest.fixture
def folder(s3_bucket: str, s3_options: S3Options) -> str:
    """Return the URI of a folder with the files."""
    uri = f"s3://{s3_bucket}/data"
    for key, content in KEYS.items():
        open_store(uri, s3=s3_options).write(key, content)
    return uri


def load(uri: str, s3: S3Options) -> LoadedRows[Row]:
    return load_rows(DataSource.model_validate({"uri": uri}), field="spec.data.train", s3=s3)


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        ("rows/train-00001.jsonl", ["q3"]),
        ("rows/", ["q1", "q2", "q3"]),
        ("rows", ["q1", "q2", "q3"]),
        ("rows/*.jsonl", ["q1", "q2", "q3"]),
        ("rows/train-*1.jsonl", ["q3"]),
        ("rows.jsonl", ["q7"]),
        ("*.jsonl", ["q7"]),
        ("odd/rows[1].jsonl", ["q8"]),
        ("odd/rows[12].jsonl", ["q0"]),
    ],
)
def test_a_key_a_folder_and_a_pattern(folder: str, s3_options: S3Options, key: str, rows: list[str]) -> None:
    loaded = load(f"{folder}/{key}", s3_options)
    assert ([row.query for row in loaded.rows], loaded.problems) == (rows, [])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("none.jsonl", "does not exist"),
        ("none/", "names no data file"),
        ("rows/*.csv", "names no data file"),
        ("rows/..", "does not name a file"),
    ],
)
def test_what_is_not_there_is_named(folder: str, s3_options: S3Options, key: str, words: str) -> None:
    (problem,) = load(f"{folder}/{key}", s3_options).problems
    assert problem.where == "spec.data.train.uri"
    assert f"{folder}/{key}" in problem.message and words in problem.message
