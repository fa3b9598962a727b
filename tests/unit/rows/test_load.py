"""Loading valid and invalid data files, with every problem at its line."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from promptintern.rows.load import LoadedRows, load_queries, load_rows
from promptintern.rows.types import Query, Row
from promptintern_api.data import DataSource


def load(path: Path, **source: Any) -> LoadedRows[Row]:
    spec = DataSource.model_validate({"uri": f"file://{path}", **source})
    return load_rows(spec, field="spec.data.train")


def write(path: Path, content: bytes | str | list[Any]) -> Path:
    if isinstance(content, list):
        content = "".join(json.dumps(line) + "\n" for line in content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_rows_with_all_columns(file: Path) -> None:
    columns = {"query": "q", "answer": "a", "answers": "more", "tests": "t", "id": "name"}
    write(file, [{"q": "Q", "a": ["A", "B"], "more": ["C", "A"], "t": ["assert x"], "name": 7}, {"q": "R", "a": "D"}])
    loaded = load(file, columns=columns)
    assert loaded.problems == []
    assert loaded.rows == [
        Row(query="Q", answer="A", answers=("A", "B", "C"), id="7", where=f"{file}:1", tests=("assert x",)),
        Row(query="R", answer="D", answers=("D",), id="2", where=f"{file}:2"),
    ]
    assert loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_byte_order_mark_carriage_returns_and_blank_lines(file: Path) -> None:
    write(file, b'\xef\xbb\xbf{"query": "a", "answer": "b"}\r\n\r\n   \n{"query": "c", "answer": "d\\r\\n"}')
    loaded = load(file)
    assert loaded.problems == []
    assert [(row.query, row.answer, row.where) for row in loaded.rows] == [
        ("a", "b", f"{file}:1"),
        ("c", "d\r\n", f"{file}:4"),
    ]


def test_the_limit_leaves_later_rows_unread_but_not_undigested(file: Path) -> None:
    write(file, '{"query": "a", "answer": "b"}\n' * 3 + "broken\n")
    loaded = load(file, limit=3)
    assert (len(loaded.rows), loaded.problems) == (3, [])
    assert loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


BAD_LINES = [
    (b'{"query": "caf\xe9", "answer": "x"}', "is not UTF-8 text (byte 15 of the line is 0xe9)"),
    (b'{"query": "a", "answer": }', "is not valid JSON: Expecting value (column 26)"),
    (b"[1, 2]", "is a list; give one JSON object per line"),
    (b'"text"', "is text; give one JSON object per line"),
    (b"null", "is null; give one JSON object per line"),
    (b"[", "the file looks like one JSON document"),
    (b"[" * 100_000, "too deeply nested"),
    (b'{"query": "a", "answer": ' + b"9" * 5000 + b"}", "a number with too many digits"),
    (b'{"query": "a", "query": "b", "answer": "c"}', "has the key 'query' twice"),
    (b'{"qurey": "a", "answer": "b"}', "has no column 'query'; did you mean 'qurey'? Columns: 'qurey', 'answer'"),
    (b'{"a": 1, "answer": "b"}', "Columns: 'a', 'answer'. Set spec.data.train.columns.query to the right one"),
    (b'{"query": 5, "answer": "b"}', "column 'query' is a number, not text"),
    (b'{"query": true, "answer": "b"}', "column 'query' is a boolean, not text"),
    (b'{"query": {}, "answer": "b"}', "column 'query' is an object, not text"),
    (b'{"query": null, "answer": "b"}', "column 'query' is null, not text"),
    (b'{"query": "", "answer": "b"}', "column 'query' is empty"),
    (b'{"query": "a", "answer": " \\n"}', "column 'answer' is blank"),
    (b'{"query": "a", "answer": []}', "column 'answer' is an empty list"),
    (b'{"query": "a", "answer": ["b", 3]}', "column 'answer'[1] is a number, not text"),
    (b'{"query": "a\\u0000", "answer": "b"}', "column 'query' contains a NUL character"),
    (b'{"query": "a", "answer": "\\ud800"}', "contains half of a surrogate pair"),
    (b'{"query": "a\x00", "answer": "b"}', "is not valid JSON: Invalid control character"),
    (b'{"query": "a", "answer": "b", "id": [1]}', "column 'id' is a list, not text or a whole number"),
    (b'{"query": "a", "answer": "b", "id": 7.0}', "column 'id' is a number, not text or a whole number"),
    (b'{"query": "a", "answer": "b", "tests": "x"}', "column 'tests' is text, not a list of texts"),
    (b'{"query": "a", "answer": "b", "more": [1]}', "column 'more'[0] is a number, not text"),
    (b'{"query": "' + b"a" * (16 * 2**20) + b'", "answer": "b"}', "is longer than 16 MiB"),
]


@pytest.mark.parametrize(("line", "words"), BAD_LINES, ids=[words[:40] for _, words in BAD_LINES])
def test_a_bad_line_is_named_and_the_others_are_read(file: Path, line: bytes, words: str) -> None:
    good = b'{"query": "good", "answer": "fine"}\n'
    write(file, good + line + b"\n" + good)
    loaded = load(file, columns={"answers": "more", "tests": "tests", "id": "id"})
    (problem,) = loaded.problems
    assert problem.where == f"{file}:2"
    assert words in problem.message
    assert [row.where for row in loaded.rows] == [f"{file}:1", f"{file}:3"]


def test_all_problems_are_counted_and_the_first_ones_shown(file: Path) -> None:
    write(file, [{"answer": "x"}] * 50)
    problems = load(file).problems
    assert [problem.where for problem in problems[:20]] == [f"{file}:{i}" for i in range(1, 21)]
    assert str(problems[20]) == f"{file}: and 30 more such problems after this one"
    assert len(problems) == 21


def test_one_row_may_have_several_problems(file: Path) -> None:
    write(file, [{"query": "", "answer": 1}])
    assert [problem.message for problem in load(file).problems] == [
        "column 'query' is empty",
        "column 'answer' is a number, not text",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "contains no rows"),
        (b"\n\r\n", "contains no rows"),
        (b"\x1f\x8b\x08\x00", "is damaged, or is not compressed as its first bytes say"),
        (b"PAR1xxxx", "set format: Parquet, and unpack it first if it is packed"),
    ],
)
def test_a_file_that_is_no_jsonl(file: Path, content: bytes, words: str) -> None:
    (problem,) = load(write(file, content)).problems
    assert words in problem.message
    assert str(file) in str(problem)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (problem,) = load(tmp_path / "none.jsonl").problems
    assert str(problem) == f"spec.data.train.uri: {tmp_path / 'none.jsonl'} does not exist"
    (problem,) = load(tmp_path).problems
    assert "names no data file" in problem.message


def test_a_file_that_may_not_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    write(file, "")
    monkeypatch.setattr(Path, "open", refuse)
    (problem,) = load(file).problems
    assert str(problem) == f"spec.data.train.uri: {file} cannot be read: Permission denied"


def test_an_encoded_path_is_decoded(tmp_path: Path) -> None:
    write(tmp_path / "my rows.jsonl", [{"query": "a", "answer": "b"}])
    assert len(load(tmp_path / "my%20rows.jsonl").rows) == 1


def test_chat_rows(file: Path) -> None:
    parts = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    write(file, [messages(("system", "S"), ("user", "Q"), ("assistant", "A"))] * 2)
    loaded = load(file)
    assert loaded.problems == []
    assert (loaded.system, loaded.rows[1].query, loaded.rows[1].answer) == ("S", "Q", "A")
    loaded = load(write(file, [messages(("user", parts), ("assistant", "A")) | {"name": "n"}]), columns={"id": "name"})
    assert (loaded.system, loaded.rows[0].query, loaded.rows[0].id) == (None, "AB", "n")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"query": "a", "answer": "b"}, "has no messages"),
        ({"messages": "x"}, "has messages that are text"),
        ({"messages": []}, "has messages with the roles none"),
        ({"messages": ["x"]}, "has messages with the roles None"),
        (messages(("user", "a")), "has messages with the roles user; they must"),
        (messages(("assistant", "a"), ("user", "a")), "has messages with the roles assistant, user"),
        (messages(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), "user, assistant, user"),
        (messages(("system", "other"), ("user", "a"), ("assistant", "b")), "has a different system message than"),
        (messages(("user", "a"), ("assistant", "b")), "has a different system message than"),
        (messages(("system", 3), ("user", "a"), ("assistant", "b")), "the system message is a number"),
        (messages(("system", "S"), ("user", "a"), ("assistant", None)), "the assistant's message is null"),
        (messages(("system", "S"), ("user", ""), ("assistant", "b")), "the user's message is empty"),
        (
            messages(("system", "S"), ("user", [{"type": "image"}]), ("assistant", "b")),
            "a part of type 'image', which cannot be",
        ),
    ],
)
def test_a_bad_chat_row(file: Path, record: dict[str, Any], words: str) -> None:
    write(file, [messages(("system", "S"), ("user", "q"), ("assistant", "a")), record])
    loaded = load(file)
    (problem,) = loaded.problems
    assert problem.where == f"{file}:2"
    assert words in problem.message
    assert (loaded.system, len(loaded.rows)) == ("S", 1)


def test_jsonl_can_be_asked_for_where_messages_is_another_column(file: Path) -> None:
    write(file, [{"query": "q", "answer": "a", "messages": 3}])
    assert len(load(file, format="JSONL").rows) == 1


def test_parquet_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"q": ["a", "b"], "answer": [["x", "y"], ["z"]], "other": [1, 2]}), path)
    loaded = load(path, columns={"query": "q"})
    assert loaded.problems == []
    assert [(row.query, row.answers, row.where) for row in loaded.rows] == [
        ("a", ("x", "y"), f"{path}#1"),
        ("b", ("z",), f"{path}#2"),
    ]
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"query": ["a", None, "c"], "answer": ["x", "y", ""]}), path)
    assert [str(problem) for problem in load(path).problems] == [
        f"{path}#2: column 'query' is null, not text",
        f"{path}#3: column 'answer' is empty",
    ]
    pq.write_table(pa.table({"querry": ["a"], "answer": ["x"]}), path)
    (problem,) = load(path).problems
    assert "has no column 'query'; did you mean 'querry'?" in problem.message
    (problem,) = load(write(path, b"PAR1 no parquet")).problems
    assert "is not a readable Parquet file" in problem.message
    (problem,) = load(write(path, b"")).problems
    assert "is not a readable Parquet file" in problem.message
    pq.write_table(pa.table({"query": pa.array([], pa.string()), "answer": pa.array([], pa.string())}), path)
    (problem,) = load(path).problems
    assert "contains no rows" in problem.message


def test_sample_rows() -> None:
    source = DataSource.model_validate({"uri": "sample://formulas/train?world=1&rows=5", "limit": 3})
    loaded = load_rows(source, field="spec.data.train")
    assert loaded.problems == []
    assert [row.where for row in loaded.rows] == [f"{source.uri}:{i}" for i in (1, 2, 3)]
    nowhere = DataSource.model_validate({"uri": "sample://nowhere"})
    (problem,) = load_rows(nowhere, field="spec.data.train").problems
    assert "sample://nowhere" in problem.message


def test_an_optional_column_that_no_row_has_gives_a_warning(file: Path) -> None:
    write(file, [{"query": "a", "answer": "b", "name": 1}])
    loaded = load(file, columns={"id": "name", "answers": "more"})
    assert loaded.problems == []
    assert loaded.warnings == ["spec.data.train.columns.answers: no row has a column 'more'"]


def queries(path: Path, **source: Any) -> LoadedRows[Query]:
    spec = DataSource.model_validate({"uri": f"file://{path}", **source})
    return load_queries(spec, field="spec.data.queries")


def test_queries_need_no_answer(file: Path) -> None:
    write(file, [{"query": "a", "name": "x"}, {"query": "b"}])
    loaded = queries(file, columns={"id": "name"})
    assert loaded.problems == []
    assert loaded.rows == [Query(query="a", id="x", where=f"{file}:1"), Query(query="b", id="2", where=f"{file}:2")]
    assert loaded.warnings == []


def test_the_answers_of_queries_are_not_read_and_a_warning_says_so(file: Path) -> None:
    write(file, [{"query": "a", "answer": 7}, {"query": "b"}, {"query": "c", "answer": "d"}])
    loaded = queries(file)
    assert loaded.problems == []
    assert all(type(query) is Query for query in loaded.rows)
    (warning,) = loaded.warnings
    assert warning.startswith("spec.data.queries: the answers of 2 rows are not read")
    assert "spec.data.train" in warning


def test_queries_of_a_chat_log(file: Path) -> None:
    write(
        file,
        [
            messages(("system", "s"), ("user", "a")),
            messages(("system", "s"), ("user", "b"), ("assistant", "c")),
        ],
    )
    loaded = queries(file)
    assert loaded.problems == []
    assert [query.query for query in loaded.rows] == ["a", "b"]
    assert loaded.system == "s"
    assert len(loaded.warnings) == 1


def test_queries_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"q": ["a", "b"]}), path)
    loaded = queries(path, columns={"query": "q"})
    assert loaded.problems == []
    assert [query.query for query in loaded.rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": "a"}, "has no column 'query'"),
        ({"query": " "}, "column 'query' is blank"),
        (messages(("assistant", "a")), "has messages with the roles assistant"),
        (messages(("user", "a"), ("user", "b")), "has messages with the roles user, user"),
    ],
)
def test_bad_queries(file: Path, record: dict[str, Any], words: str) -> None:
    write(file, [record])
    (problem,) = queries(file).problems
    assert words in problem.message


def test_sample_queries_are_the_training_rows_without_answers() -> None:
    uris = [f"sample://formulas/{split}?world=1&rows=5" for split in ("queries", "train")]
    asked = load_queries(DataSource(uri=uris[0]), field="spec.data.queries")
    answered = load_rows(DataSource(uri=uris[1]), field="spec.data.train")
    assert [query.query for query in asked.rows] == [row.query for row in answered.rows]
    assert asked.warnings == []


@pytest.mark.parametrize(
    ("field", "advice"),
    [
        ("spec.data.train", "or name the file in spec.data.queries if it has no answers"),
        ("spec.data.eval", "or set spec.evaluation.reference: FullPrompt if the file has no answers"),
    ],
)
def test_a_file_without_answers_says_what_to_do(file: Path, field: str, advice: str) -> None:
    write(file, [{"query": "a"}])
    (problem,) = load_rows(DataSource(uri=f"file://{file}"), field=field).problems
    assert advice in problem.message


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv"])
@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"input": ["a text", "b", "c"]}, "the column 'input' holds text in every row and is not used"),
        ({"input": ["", "b", "  "]}, "the column 'input' holds text in 1 of 3 rows and is not used"),
        ({"context": ["c", "c", "c"], "persona": ["p", "p", "p"]}, "columns 'context', 'persona' hold text in every"),
        ({"context": ["c", "c", "c"], "persona": ["p", "", "p"]}, "columns 'context', 'persona' hold text in some"),
        ({"source": ["Good morning.", "b", "c"]}, "the column 'source' holds text in every row"),
        ({"": ["first words", "b", "c"]}, "the column without a name holds text"),
        ({"input": ["", " ", ""]}, None),
        ({"source": ["web", "web", "https://host/x"]}, None),
        ({"row_id": ["a b", "c d", "e f"]}, None),
        ({"": ["0", "1", "2"]}, None),
        ({"Unnamed: 0": ["0", "1", "2"]}, None),
    ],
)
def test_text_that_nobody_reads_is_named(
    tmp_path: Path, name: str, texts: dict[str, list[str]], words: str | None
) -> None:
    columns = {**texts, "instruction": ["q", "r", "s"], "output": ["x", "y", "z"]}
    records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table(columns), path)
    elif name.endswith(".csv"):
        lines = [columns, *(record.values() for record in records)]
        path.write_text("".join(",".join(line) + "\n" for line in lines))
    else:
        write(path, records)
    loaded = load(path, columns={"query": "instruction", "answer": "output"})
    assert loaded.problems == []
    if words is None:
        assert loaded.warnings == []
    else:
        (warning,) = loaded.warnings
        assert words in warning
        assert "into the column of the query ('instruction')" in warning


def test_text_that_not_every_row_has_is_not_called_unused(file: Path) -> None:
    rows = [{"query": "a", "answer": "b", "input": "c"}, {"query": "a", "answer": "b"}]
    assert load(write(file, rows)).warnings == []


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_text_in_parquet_that_nobody_reads_is_named(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "rows.parquet"
    texts = pa.array(["x", None]).cast(kind)
    columns = {"query": ["q", "r"], "answer": ["a", "b"], "input": texts, "row_id": ["7", "8"], "size": [3, 4]}
    pq.write_table(pa.table(columns), path)
    (warning,) = load(path).warnings
    assert "the column 'input' holds text in 1 of 2 rows" in warning


CHAT = messages(("user", "from the chat"), ("assistant", "a"))
BESIDE = "the chat in the column 'messages' is not used, because the rows are read by the columns"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("record", "source", "query", "warnings"),
    [
        ({"query": "q", "answer": "a"} | CHAT, {}, "q", [BESIDE]),
        ({"prompt": "q", "reply": "a"} | CHAT, {"columns": {"query": "prompt", "answer": "reply"}}, "q", [BESIDE]),
        ({"query": "q", "answer": "a"} | CHAT, {"format": "Chat"}, "from the chat", ["'answer', 'query' hold text"]),
        ({"answer": "a"} | CHAT, {}, "from the chat", ["the column 'answer' holds text"]),
        ({"name": "n"} | CHAT, {"columns": {"id": "name"}}, "from the chat", []),
    ],
)
def test_one_rule_says_whether_columns_or_the_chat_are_read(
    tmp_path: Path, name: str, record: dict[str, Any], source: dict[str, Any], query: str, warnings: list[str]
) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist([record]), path)
    else:
        write(path, [record])
    loaded = load(path, **source)
    assert [row.query for row in loaded.rows] == [query], loaded.problems
    assert len(loaded.warnings) == len(warnings)
    assert all(words in warning for words, warning in zip(warnings, loaded.warnings, strict=True))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_chat_is_not_read_in_place_of_columns_that_the_job_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist([CHAT]), path)
    else:
        write(path, [CHAT])
    (problem,) = load(path, columns={"query": "prompt", "answer": "messages"}).problems
    assert "has no column 'prompt'; to read the chat in 'messages', set format: Chat" in problem.message


def test_the_rows_in_a_list_of_one_object_are_named(file: Path) -> None:
    rows = [{"query": f"q {n}", "answer": "a"} for n in range(3)]
    (problem,) = load(write(file, [{"version": "1", "data": rows}])).problems
    assert problem.where == f"{file}:1"
    assert "whose list 'data' holds 3 objects; if these are the rows, write each of them on a line" in problem.message


@pytest.mark.parametrize("source", [{}, {"format": "Chat"}, {"format": "Parquet"}])
def test_chat_rows_in_parquet(tmp_path: Path, source: dict[str, str]) -> None:
    path = tmp_path / "rows.parquet"
    rows = [
        messages(("system", "Be brief."), ("user", f"q {n}"), ("assistant", f"a {n}")) | {"tests": [f"t {n}"]}
        for n in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    loaded = load(path, columns={"tests": "tests"}, **source)
    assert loaded.problems == []
    assert loaded.system == "Be brief."
    assert [(row.query, row.answer, row.tests, row.where) for row in loaded.rows] == [
        (f"q {n}", f"a {n}", (f"t {n}",), f"{path}#{n + 1}") for n in range(3)
    ]
    queries = load_queries(DataSource(uri=f"file://{path}"), field="spec.data.queries")
    assert [query.query for query in queries.rows] == ["q 0", "q 1", "q 2"]


def test_damaged_chat_rows_in_parquet_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [messages(("user", "q"), ("assistant", "a")), messages(("user", "q")), {"messages": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    problems = [(problem.where, problem.message) for problem in load(path).problems]
    assert [where for where, _ in problems] == [f"{path}#2", f"{path}#3"]
    assert "the roles user" in problems[0][1]
    assert "null" in problems[1][1]
