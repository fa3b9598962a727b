"""Every format of data files, with what real files hold: marks, line ends, empty lines, large rows, and mistakes."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.rows.load import LoadedRows, load_queries, load_rows
from promptintern.rows.types import Row
from promptintern_api.data import DataSource

Record = dict[str, Any]


def as_jsonl(records: list[Record]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def as_chat(records: list[Record]) -> bytes:
    turns = [
        {"messages": [{"role": "user", "content": r["query"]}, {"role": "assistant", "content": r["answer"]}]}
        for r in records
    ]
    return as_jsonl(turns)


def as_table(records: list[Record], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(["query", "answer"])
    writer.writerows([[record["query"], record["answer"]] for record in records])
    return text.getvalue().encode()


def as_parquet(records: list[Record]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue()


FORMATS: dict[str, Callable[[list[Record]], bytes]] = {
    "rows.jsonl": as_jsonl,
    "chat.jsonl": as_chat,
    "rows.csv": as_table,
    "rows.tsv": lambda records: as_table(records, "\t"),
    "rows.parquet": as_parquet,
    "rows.jsonl.gz": lambda records: gzip.compress(as_jsonl(records)),
    "rows.csv.gz": lambda records: gzip.compress(as_table(records)),
    "without-a-suffix": lambda records: gzip.compress(as_jsonl(records)),
}
LINES = [name for name in FORMATS if name != "rows.parquet"]
PLAIN = ["rows.jsonl", "chat.jsonl", "rows.csv", "rows.tsv"]
RECORDS = [
    {"query": "plain", "answer": "a"},
    {"query": 'with "quotes", commas\tand tabs', "answer": "line\nbreak"},
    {"query": "emoji \U0001f600 and 中文", "answer": " spaces "},
]


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def load(path: Path, **source: Any) -> LoadedRows[Row]:
    return load_rows(DataSource.model_validate({"uri": f"file://{path}", **source}), field="spec.data.train")


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    loaded = load(write(tmp_path, name, FORMATS[name](RECORDS)))
    assert loaded.problems == []
    assert [(row.query, row.answer) for row in loaded.rows] == [(r["query"], r["answer"]) for r in RECORDS]
    queries = load_queries(DataSource(uri=f"file://{tmp_path / name}"), field="spec.data.queries")
    assert [query.query for query in queries.rows] == [record["query"] for record in RECORDS]


@pytest.mark.parametrize("name", LINES)
def test_a_byte_order_mark_is_no_text(name: str, tmp_path: Path) -> None:
    content = FORMATS[name](RECORDS[:1])
    marked = b"\xef\xbb\xbf" + (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
    packed = gzip.compress(marked) if content.startswith(b"\x1f\x8b") else marked
    loaded = load(write(tmp_path, name, packed))
    assert loaded.problems == []
    assert [row.query for row in loaded.rows] == ["plain"]


@pytest.mark.parametrize("name", PLAIN)
def test_empty_lines_are_no_rows(name: str, tmp_path: Path) -> None:
    content = FORMATS[name](RECORDS[:1])
    loaded = load(write(tmp_path, name, content + b"\r\n\n" + content.splitlines(keepends=True)[-1]))
    assert loaded.problems == []
    assert len(loaded.rows) == 2


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_ten_megabytes_are_read(name: str, tmp_path: Path) -> None:
    large = [{"query": "x" * (10 * 2**20), "answer": "a"}, {"query": "b", "answer": "c"}]
    loaded = load(write(tmp_path, name, FORMATS[name](large)))
    assert loaded.problems == []
    assert [len(row.query) for row in loaded.rows] == [10 * 2**20, 1]


@pytest.mark.parametrize("name", FORMATS)
def test_a_nul_character_is_named_at_its_row(name: str, tmp_path: Path) -> None:
    records = [RECORDS[0], {"query": "a\0b", "answer": "c"}]
    (problem,) = load(write(tmp_path, name, FORMATS[name](records))).problems
    assert "NUL" in problem.message
    assert problem.where.endswith((":2", ":3", "#2"))


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_answer_is_named_at_its_row(name: str, tmp_path: Path) -> None:
    records = [RECORDS[0], {"query": "q", "answer": ""}]
    (problem,) = load(write(tmp_path, name, FORMATS[name](records))).problems
    assert "empty" in problem.message
    assert problem.where.endswith((":2", ":3", "#2"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_nulls_are_named_at_their_rows(name: str, tmp_path: Path) -> None:
    records = [RECORDS[0], {"query": None, "answer": "c"}]
    (problem,) = load(write(tmp_path, name, FORMATS[name](records))).problems
    assert "null" in problem.message
    assert problem.where.endswith((":2", "#2"))


def test_mixed_types_are_named_at_their_lines(tmp_path: Path) -> None:
    records = [{"query": 7, "answer": "a"}, {"query": ["q"], "answer": "a"}, {"query": "q", "answer": {"x": 1}}]
    problems = load(write(tmp_path, "rows.jsonl", as_jsonl(records))).problems
    assert [problem.where.rpartition(":")[2] for problem in problems] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"query,answer\na,b\nc\n", 3, "has 1 fields, and the first line names 2 columns"),
        (b"query,answer\na,b\nc,d,e\nf,g\n", 3, "has 3 fields"),
        (b'query,answer\n"a\nb",c\nd\n', 4, "has 1 fields"),
        (b'query,answer\n"a"b,c\n', 2, "is not a valid record"),
        (b'query,answer\n"never closed,b\n', 2, "is not a valid record"),
        (b"query,query\na,b\n", 1, "names the column 'query' twice"),
        (b"query,answer\na,\xff\n", 2, "is not UTF-8 text"),
        (b"question,answer\na,b\n", 2, "has no column 'query'"),
    ],
)
def test_faults_of_a_table_are_named_at_their_lines(tmp_path: Path, content: bytes, line: int, message: str) -> None:
    path = write(tmp_path, "rows.csv", content)
    found = [(problem.where, problem.message) for problem in load(path).problems]
    assert any(where == f"{path}:{line}" and message in text for where, text in found), found


@pytest.mark.parametrize(
    ("name", "delimiter", "words"),
    [
        ("rows.csv", ";", "separated by a semicolon; save the file with commas"),
        ("rows.csv", "|", "separated by a vertical bar; save the file with commas"),
        ("rows.csv", "\t", "separated by a tab; set format: TSV"),
        ("rows.tsv", ",", "separated by a comma; set format: CSV"),
    ],
)
def test_another_delimiter_is_named_once(tmp_path: Path, name: str, delimiter: str, words: str) -> None:
    path = write(tmp_path, name, as_table(RECORDS, delimiter))
    (problem,) = load(path).problems
    assert problem.where == f"{path}:1"
    assert words in problem.message


def test_lists_in_a_table_are_json(tmp_path: Path) -> None:
    content = b'query,answer,tests\nq,"[""a"", ""b""]","[""assert 1""]"\nr,[x,"[""assert 2""]"\n'
    loaded = load(write(tmp_path, "rows.csv", content), columns={"tests": "tests"})
    assert loaded.problems == []
    assert [(row.answers, row.tests) for row in loaded.rows] == [(("a", "b"), ("assert 1",)), (("[x",), ("assert 2",))]


@pytest.mark.parametrize(("kind", "delimiter"), [("CSV", ","), ("TSV", "\t")])
def test_the_format_counts_and_not_the_name(tmp_path: Path, kind: str, delimiter: str) -> None:
    path = write(tmp_path, "rows.txt", as_table(RECORDS, delimiter))
    assert len(load(path, format=kind).rows) == 3


def test_zstandard_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(as_jsonl(RECORDS))
    assert [row.query for row in load(path).rows] == [record["query"] for record in RECORDS]


def test_the_digest_is_that_of_the_file_as_it_is(tmp_path: Path) -> None:
    import hashlib

    for name, content in ((name, write_format(RECORDS)) for name, write_format in FORMATS.items()):
        path = write(tmp_path, name, content)
        assert load(path, limit=1).sha256 == hashlib.sha256(content).hexdigest(), name


@pytest.mark.parametrize("cut", [6, 20, 40])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, cut: int) -> None:
    records = [{"query": f"q {n}", "answer": str(n * 7919)} for n in range(200)]
    path = write(tmp_path, "rows.jsonl.gz", gzip.compress(as_jsonl(records))[:-cut])
    problems = load(path).problems
    assert problems, "a file that ends too early is no complete file"
    assert str(path) in problems[0].where


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=5))
def test_any_text_survives_a_table(pairs: list[tuple[str, str]]) -> None:
    import tempfile

    usable = [(q, a) for q, a in pairs if q.strip() and a.strip() and "\0" not in q + a]
    records = [{"query": q, "answer": a} for q, a in usable]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        try:
            path.write_bytes(as_table(records))
        except UnicodeEncodeError:
            return
        loaded = load(path)
    assert [(row.query, row.answer) for row in loaded.rows] == usable


def sharegpt(*turns: tuple[str, Any]) -> Record:
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_sharegpt_rows_are_chat_rows(name: str, tmp_path: Path) -> None:
    records = [sharegpt(("system", "Be brief."), ("human", f"q {n}"), ("gpt", f"a {n}")) for n in range(3)]
    loaded = load(write(tmp_path, name, FORMATS[name](records)))
    assert loaded.problems == []
    assert loaded.system == "Be brief."
    assert [(row.query, row.answer) for row in loaded.rows] == [(f"q {n}", f"a {n}") for n in range(3)]


@pytest.mark.parametrize(
    "record",
    [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},
            ]
        },
        {"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "7"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "function_call": {"name": "f"}}]},
        sharegpt(("human", "q"), ("function_call", "f()")),
        sharegpt(("human", "q"), ("observation", "7"), ("gpt", "a")),
    ],
)
def test_calls_of_tools_are_refused_in_words_that_say_so(tmp_path: Path, record: Record) -> None:
    (problem,) = load(write(tmp_path, "rows.jsonl", as_jsonl([record]))).problems
    assert problem.where.endswith(":1")
    assert "has calls of tools or their results" in problem.message


def chat_row(**columns: Any) -> Record:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], **columns}


def answered(**keys: Any) -> Record:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **keys}]}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("record", "words"),
    [
        (chat_row(tools=[{"type": "function"}]), "has descriptions of tools in the column 'tools', which cannot be"),
        (chat_row(tools='[{"name": "f"}]'), "has descriptions of tools in the column 'tools'"),
        (sharegpt(("human", "q"), ("gpt", "a")) | {"tools": '[{"name": "f"}]'}, "has descriptions of tools"),
        (chat_row(functions=[{"name": "f"}]), "has descriptions of tools in the column 'functions'"),
        (chat_row(images=["a.png"]), "has pictures or sound in the column 'images'"),
        (answered(reasoning_content="Let me see."), "has a thought in 'reasoning_content', which would not be learned"),
        (answered(weight=0), "has the weight 0, so it must not be learned; leave such rows out"),
    ],
)
def test_what_a_chat_holds_besides_text_is_refused(tmp_path: Path, name: str, record: Record, words: str) -> None:
    (problem,) = load(write(tmp_path, name, FORMATS[name]([record]))).problems
    assert problem.where.endswith((":1", "#1"))
    assert words in problem.message


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    "record",
    [
        chat_row(tools="[]", images=None),
        answered(weight=1, reasoning_content=None, tool_calls=None),
        {"messages": sharegpt(("human", "q"), ("gpt", "a"))["conversations"]},
    ],
)
def test_empty_columns_beside_a_chat_are_no_fault(tmp_path: Path, name: str, record: Record) -> None:
    loaded = load(write(tmp_path, name, FORMATS[name]([record])))
    assert ([(row.query, row.answer) for row in loaded.rows], loaded.problems, loaded.warnings) == (
        [("q", "a")],
        [],
        [],
    )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_texts_beside_a_chat_are_named(tmp_path: Path, name: str) -> None:
    records = [chat_row(system=f"You are agent {n}.", context="" if n else "text", dataset_id="x y") for n in range(3)]
    (warning,) = load(write(tmp_path, name, FORMATS[name](records))).warnings
    assert "the columns 'context', 'system' hold text in some rows and are not used" in warning
    assert "put them into the user's message" in warning


def test_alpaca_rows_are_named_with_the_mapping_to_write(tmp_path: Path) -> None:
    record = {"instruction": "Sum up.", "input": "long text", "output": "short"}
    path = write(tmp_path, "rows.jsonl", as_jsonl([record]))
    message = " ".join(problem.message for problem in load(path).problems)
    assert "set columns: {query: instruction, answer: output}" in message
    assert load(path, columns={"query": "instruction", "answer": "output"}).problems == []


@pytest.mark.parametrize(
    "turns",
    [[("human", 7), ("gpt", "a")], [(None, "q"), ("gpt", "a")], [(["x"], "q")], [({"a": 1}, "q")], [("gpt", "a")], []],
)
def test_damaged_sharegpt_rows_are_named(tmp_path: Path, turns: list[tuple[str, Any]]) -> None:
    problems = load(write(tmp_path, "rows.jsonl", as_jsonl([sharegpt(*turns)]))).problems
    assert problems and all(problem.where.endswith(":1") for problem in problems)
