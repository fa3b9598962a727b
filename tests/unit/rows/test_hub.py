"""Data sets on a hub: the hub's own client, and a server on this machine that answers as a hub does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_hub import FakeHub, ask, commit_of, running
from tests.unit.rows.test_files import record
from tests.unit.rows.test_formats import as_jsonl, as_parquet

COMMIT = commit_of("main")
FILES = {
    "README.md": b"# rows",
    "data/train-00000-of-00002.parquet": as_parquet([record(1), record(2)]),
    "data/train-00001-of-00002.parquet": as_parquet([record(3)]),
    "data/test-00000-of-00001.parquet": as_parquet([record(4)]),
    "extra/more.jsonl": as_jsonl([record(5)]),
}
VARIANTS = {
    **{f"{variant}/train-00000-of-00001.parquet": as_parquet([record(number)]) for number, variant in enumerate("ab")},
    **{f"c/train_{kind}-00000-of-00001.parquet": as_parquet([record(9)]) for kind in ("sft", "gen")},
}
LAYOUTS = {
    "top": {f"{split}.jsonl": as_jsonl([record(1)]) for split in ("train", "validation", "test")},
    "folders": {f"{split}/0.jsonl": as_jsonl([record(1)]) for split in ("train", "test")},
    "single": {
        "dataset_infos.json": b'{"default": {}}',
        "data/train-00000-of-00001.parquet": as_parquet([record(7)]),
    },
    "arrow": {"train/state.json": b"{}", "train/data-00000-of-00001.arrow": b"ARROW1"},
}
ON_BRANCH = {"train.jsonl": as_jsonl([record(6)])}
TOKEN = "a-token"
LOAD = """
import json, sys
from promptintern.errors import RunFailed
from promptintern.rows.load import load_rows
from promptintern_api.data import DataSource
try:
    loaded = load_rows(DataSource.model_validate(json.loads(sys.argv[1])), field="spec.data.train")
except RunFailed as error:
    print(json.dumps({"failed": str(error)}))
else:
    rows, problems = [row.query for row in loaded.rows], [str(problem) for problem in loaded.problems]
    print(json.dumps({"rows": rows, "where": [row.where for row in loaded.rows], "problems": problems}))
"""


@pytest.fixture(scope="module")
def hub() -> FakeHub:
    branches = {"main": FILES, "refs/pr/1": ON_BRANCH}
    return FakeHub(
        {
            "datasets/acme/rows": branches,
            "datasets/acme/gated": branches,
            "datasets/acme/variants": {"main": VARIANTS},
            **{f"datasets/acme/{name}": {"main": files} for name, files in LAYOUTS.items()},
        },
        {"datasets/acme/gated": TOKEN},
    )


@pytest.fixture(scope="module")
def endpoint(hub: FakeHub) -> Iterator[str]:
    with running(hub) as url:
        yield url


def load(endpoint: str, home: Path, source: dict[str, Any], token: str = "") -> dict[str, Any]:
    return ask(endpoint, home, LOAD, json.dumps(source), token=token)


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ({"uri": "hf://datasets/acme/rows", "split": "train"}, ["q1", "q2", "q3"]),
        ({"uri": "hf://datasets/acme/rows", "split": "test"}, ["q4"]),
        ({"uri": f"hf://datasets/acme/rows@{COMMIT}/data/train-*.parquet", "limit": 2}, ["q1", "q2"]),
        ({"uri": "hf://datasets/acme/rows/extra"}, ["q5"]),
        ({"uri": "hf://datasets/acme/rows/extra/more.jsonl"}, ["q5"]),
        ({"uri": "hf://datasets/acme/rows@refs%2Fpr%2F1"}, ["q6"]),
        ({"uri": "hf://datasets/acme/rows@refs%2Fpr%2F1", "split": "train"}, ["q6"]),
        ({"uri": "hf://datasets/acme/single"}, ["q7"]),
        ({"uri": "hf://datasets/acme/folders/test"}, ["q1"]),
        ({"uri": "hf://datasets/acme/variants/b", "split": "train"}, ["q1"]),
        ({"uri": "hf://datasets/acme/variants/c", "split": "train_sft"}, ["q9"]),
    ],
)
def test_a_data_set_is_read_by_split_by_pattern_and_by_file(
    endpoint: str, tmp_path: Path, source: dict[str, Any], rows: list[str]
) -> None:
    loaded = load(endpoint, tmp_path, source)
    assert (loaded["rows"], loaded["problems"]) == (rows, [])
    assert all(
        where.startswith(source["uri"].partition("/data/")[0].partition("/extra")[0]) for where in loaded["where"]
    )


@pytest.mark.parametrize(
    ("source", "place", "words"),
    [
        (
            {"uri": "hf://datasets/acme/rows", "split": "dev"},
            "split",
            "has no split 'dev'; its files are README.md, data/",
        ),
        ({"uri": "hf://datasets/acme/rows"}, "split", "has several splits; set one of: test, train"),
        ({"uri": "hf://datasets/acme/top"}, "split", "has several splits; set one of: test, train, validation"),
        ({"uri": "hf://datasets/acme/folders"}, "split", "has several splits; set one of: test, train"),
        ({"uri": "hf://datasets/acme/arrow"}, "uri", "write the data set as Parquet"),
        ({"uri": "hf://datasets/acme/rows/**/*.parquet"}, "uri", "only the last part of a path may be a pattern"),
        ({"uri": "hf://datasets/acme/rows/none"}, "uri", "names no data file"),
        ({"uri": "hf://datasets/acme/rows/none/x.jsonl"}, "uri", "no such folder or file; set `split`, or name one"),
        ({"uri": "hf://datasets/acme/rows/extra/more.jsonl", "split": "train"}, "split", "URI of one file"),
        (
            {"uri": "hf://datasets/acme/variants", "split": "train"},
            "uri",
            "files in several folders (a, b), which may be several variants of the data; name one of them, as in",
        ),
        ({"uri": "hf://datasets/acme/variants/c", "split": "train"}, "split", "has no split 'train'"),
        ({"uri": "hf://datasets/acme/none"}, "uri", "the data set acme/none@main does not exist, or the token has no"),
        ({"uri": "hf://datasets/acme/rows@none"}, "uri", "the data set acme/rows@none does not exist"),
        ({"uri": "hf://datasets/acme/gated", "split": "train"}, "uri", "is gated: accept its terms"),
    ],
)
def test_each_mistake_has_its_own_message(
    endpoint: str, tmp_path: Path, source: dict[str, Any], place: str, words: str
) -> None:
    (problem,) = load(endpoint, tmp_path, source)["problems"]
    assert problem.startswith(f"spec.data.train.{place}: ")
    assert words in problem


def test_files_that_a_limit_leaves_out_are_not_fetched(endpoint: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.sent.clear()
    loaded = load(endpoint, tmp_path, {"uri": "hf://datasets/acme/rows", "split": "train", "limit": 1})
    assert (loaded["rows"], list(hub.sent)) == (["q1"], ["data/train-00000-of-00002.parquet"])


def test_a_token_opens_a_gated_data_set(endpoint: str, tmp_path: Path) -> None:
    source = {"uri": "hf://datasets/acme/gated", "split": "test"}
    assert load(endpoint, tmp_path, source, token=TOKEN)["rows"] == ["q4"]


def test_a_hub_that_does_not_answer_is_an_outage(
    endpoint: str, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "is_down", True)
    source = {"uri": "hf://datasets/acme/rows", "split": "train"}
    assert "could not be fetched from its hub" in load(endpoint, tmp_path, source)["failed"]
