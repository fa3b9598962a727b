"""Several files as one data source: folders, patterns, and what is found in folders besides data."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from promptintern_api.data import DataSource

from tests.unit.rows.test_formats import Record, as_chat, as_jsonl, as_parquet, as_table, load

SHARDS: dict[str, Callable[[list[Record]], bytes]] = {
    "jsonl": as_jsonl,
    "jsonl.gz": lambda records: gzip.compress(as_jsonl(records)),
    "csv": as_table,
    "parquet": as_parquet,
}


def record(number: int) -> Record:
    return {"query": f"q{number}", "answer": f"a{number}"}


def shards(folder: Path, suffix: str, *sizes: int) -> None:
    """Write files with these numbers of rows, whose numbers follow each other; the last file is written first."""
    numbers = iter(range(1, sum(sizes) + 1))
    contents = [SHARDS[suffix]([record(next(numbers)) for _ in range(size)]) for size in sizes]
    for index in reversed(range(len(sizes))):
        (folder / f"train-{index:05}.{suffix}").write_bytes(contents[index])


@pytest.mark.parametrize("suffix", SHARDS)
@pytest.mark.parametrize("pattern", ["", "*", "train-*", "train-0000[01].*"])
def test_the_rows_of_files_follow_each_other_in_the_order_of_the_names(
    tmp_path: Path, suffix: str, pattern: str
) -> None:
    shards(tmp_path, suffix, 2, 1)
    loaded = load(tmp_path / pattern)
    assert [(row.query, row.answer) for row in loaded.rows] == [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]
    assert len({row.id for row in loaded.rows}) == 3
    assert "train-00001" in loaded.rows[2].where
    assert not loaded.problems


def test_blank_lines_give_no_two_rows_one_name(tmp_path: Path) -> None:
    rows = [json.dumps(record(number)) for number in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join([rows[0], "", "", "", rows[1]]))
    (tmp_path / "b.jsonl").write_text("\n".join(rows[2:]))
    assert len({row.id for row in load(tmp_path).rows}) == 6


@pytest.mark.parametrize("suffix", SHARDS)
def test_an_empty_file_gives_no_two_rows_one_name(tmp_path: Path, suffix: str) -> None:
    shards(tmp_path, suffix, 1, 0, 2)
    if suffix == "parquet":  # an empty table would have no columns
        (tmp_path / "train-00001.parquet").unlink()
    assert sorted({row.query for row in load(tmp_path).rows}) == ["q1", "q2", "q3"]
    assert len({row.id for row in load(tmp_path).rows}) == 3


def test_what_is_no_data_is_left_out_of_a_folder(tmp_path: Path) -> None:
    shards(tmp_path, "jsonl", 1)
    for name in ("README.md", "_SUCCESS", ".train.jsonl.swp", ".hidden.jsonl", "notes.txt"):
        (tmp_path / name).write_text("no data")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "other.jsonl").write_bytes(as_jsonl([record(9)]))
    assert [row.query for row in load(tmp_path).rows] == ["q1"]


@pytest.mark.parametrize("name", ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"])
@pytest.mark.parametrize("pattern", ["", "*", "*.json"])
def test_the_description_of_a_data_set_is_no_data(tmp_path: Path, name: str, pattern: str) -> None:
    (tmp_path / "rows.json").write_bytes(as_jsonl([record(1)]))
    (tmp_path / name).write_text('{\n  "default": {}\n}')
    loaded = load(tmp_path / pattern)
    assert ([row.query for row in loaded.rows], loaded.problems) == (["q1"], [])


@pytest.mark.parametrize("names", [["state.json", "data-00000-of-00001.arrow"], ["dataset_dict.json"], ["a.feather"]])
def test_a_data_set_that_was_saved_to_disk_is_to_be_written_as_parquet(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    (problem,) = load(tmp_path).problems
    assert problem.where == "spec.data.train.uri"
    assert 'with dataset.to_parquet("rows.parquet")' in problem.message


@pytest.mark.parametrize(
    ("names", "splits", "pattern"),
    [
        (["train.jsonl", "test.jsonl"], "test, train", "train*"),
        (["train-00000-of-00001.jsonl", "validation-00000-of-00001.jsonl"], "train, validation", "train*"),
        (["gen-00000-of-00001.jsonl", "sft-00000-of-00001.jsonl"], "gen, sft", "gen*"),
        (["Train-1.jsonl.gz", "dev.jsonl"], "Train, dev", "Train*"),
    ],
)
def test_a_folder_with_several_splits_is_refused_with_a_pattern_to_give(
    tmp_path: Path, names: list[str], splits: str, pattern: str
) -> None:
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(as_jsonl([record(number)]))
    (problem,) = load(tmp_path).problems
    assert f"has files of several splits ({splits}); give a pattern, such as {pattern} for" in problem.message
    assert len(load(tmp_path / pattern).rows) == 1
    assert len(load(tmp_path / "*.jsonl*").rows) == 2


@pytest.mark.parametrize(
    "names", [["train.jsonl", "train-1.jsonl"], ["train.jsonl", "more.jsonl"], ["a.jsonl", "b-1.jsonl"]]
)
def test_files_of_one_split_or_of_none_are_read_together(tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(as_jsonl([record(number)]))
    assert len(load(tmp_path).rows) == 2


@pytest.mark.parametrize("pattern", ["**/*.jsonl", "fold*/x.jsonl", "[a-z]older/*.jsonl"])
def test_only_the_last_part_of_a_path_may_be_a_pattern(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.jsonl").write_bytes(as_jsonl([record(1)]))
    (problem,) = load(tmp_path / pattern).problems
    assert problem.where == "spec.data.train.uri"
    assert "only the last part of a path may be a pattern" in problem.message


def test_a_folder_whose_name_looks_like_a_pattern_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows[1]").mkdir()
    (tmp_path / "rows[1]" / "x.jsonl").write_bytes(as_jsonl([record(1)]))
    assert len(load(tmp_path / "rows[1]" / "*.jsonl").rows) == 1
    assert len(load(tmp_path / "rows[1]" / "x.jsonl").rows) == 1


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 2), (3, 3), (4, 4), (99, 5)])
def test_a_limit_counts_over_all_files(tmp_path: Path, limit: int, count: int) -> None:
    shards(tmp_path, "jsonl", 2, 2, 1)
    assert len(load(tmp_path, limit=limit).rows) == count


def test_the_digest_is_that_of_the_names_and_the_contents(tmp_path: Path) -> None:
    shards(tmp_path, "jsonl", 2, 1)
    first = load(tmp_path).sha256
    assert first == load(tmp_path / "*.jsonl").sha256
    assert first != load(tmp_path / "train-00000.jsonl").sha256
    (tmp_path / "train-00001.jsonl").rename(tmp_path / "train-00002.jsonl")
    assert load(tmp_path).sha256 != first
    (tmp_path / "train-00002.jsonl").write_bytes(as_jsonl([record(4)]))
    assert load(tmp_path).sha256 != first


def test_one_file_of_a_folder_has_the_digest_of_the_file(tmp_path: Path) -> None:
    shards(tmp_path, "jsonl", 2)
    assert load(tmp_path).sha256 == load(tmp_path / "train-00000.jsonl").sha256


def test_a_problem_names_the_file_and_the_line(tmp_path: Path) -> None:
    shards(tmp_path, "jsonl", 2, 1)
    (tmp_path / "train-00001.jsonl").write_text('{"query": "fine", "answer": "a"}\n{"query": 1, "answer": "a"}\n')
    (problem,) = load(tmp_path).problems
    assert problem.where == f"{tmp_path / 'train-00001.jsonl'}:2"


def test_files_of_several_formats_are_refused_with_a_pattern_to_give(tmp_path: Path) -> None:
    shards(tmp_path, "jsonl", 1)
    shards(tmp_path, "csv", 1)
    (problem,) = load(tmp_path).problems
    assert problem.where == "spec.data.train.uri"
    assert "files of several formats (.csv, .jsonl); give a pattern, such as *.csv" in problem.message
    assert len(load(tmp_path / "*.csv").rows) == 1


@pytest.mark.parametrize("name", ["none-*.jsonl", "empty"])
def test_a_folder_or_pattern_without_data_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (problem,) = load(tmp_path / name).problems
    assert "names no data file" in problem.message


def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows[1].jsonl").write_bytes(as_jsonl([record(1)]))
    (tmp_path / "rows1.jsonl").write_bytes(as_jsonl([record(2)]))
    assert [row.query for row in load(tmp_path / "rows[1].jsonl").rows] == ["q1"]


def test_all_chat_files_must_have_one_system_message(tmp_path: Path) -> None:
    turns = as_chat([record(1)]).decode()
    system = '{"messages": [{"role": "system", "content": "%s"}, '
    for name, text in (("a.jsonl", "be brief"), ("b.jsonl", "be brief"), ("c.jsonl", "be long"), ("d.jsonl", None)):
        (tmp_path / name).write_text(turns.replace('{"messages": [', system % text) if text else turns)
    problems = load(tmp_path).problems
    assert [problem.where for problem in problems] == [str(tmp_path / "c.jsonl"), str(tmp_path / "d.jsonl")]
    assert all("another system message" in problem.message for problem in problems)
    (tmp_path / "d.jsonl").unlink()
    (tmp_path / "c.jsonl").unlink()
    loaded = load(tmp_path)
    assert (loaded.system, len(loaded.rows)) == ("be brief", 2)


def test_a_column_that_only_one_file_has_is_not_called_unused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(as_parquet([record(1) | {"input": "text"}]))
    assert load(tmp_path).warnings
    (tmp_path / "b.parquet").write_bytes(as_parquet([record(2)]))
    assert not load(tmp_path).warnings


def test_a_split_is_only_for_a_hub(tmp_path: Path) -> None:
    shards(tmp_path, "jsonl", 1)
    (problem,) = load(tmp_path, split="train").problems
    assert problem.where == "spec.data.train.split"


@pytest.mark.parametrize("uri", ["hf://org/model", "hf://datasets/name", "hf://datasets/a/b@", "hf://datasets//b/x"])
def test_what_is_no_data_set_on_a_hub_is_refused(uri: str) -> None:
    from promptintern.rows.load import load_rows

    (problem,) = load_rows(DataSource.model_validate({"uri": uri}), field="spec.data.train").problems
    assert problem.where == "spec.data.train.uri"
    assert "hf://datasets/ORG/NAME" in problem.message
