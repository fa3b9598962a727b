"""The command ``promptintern predict``, which reads queries and writes answers."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptintern.errors import UserError
from promptintern.libraries import without_collection
from promptintern.terminal import print_error, write_lines
from promptintern.uris import to_uri

STDOUT = "-"


def answer_queries(
    *,
    adapter: str,
    queries: Sequence[str],
    input_file: Path | None,
    output_file: str | None,
    base_model: str | None,
    batch_size: int,
) -> None:
    """Answer the given queries, and write the answers to ``output_file`` or, by default, to standard output.

    The queries are ``queries`` and those in ``input_file`` or, if neither is given, the lines of standard input.

    Raises:
        UserError: if no query is given, a query cannot be used, or a file cannot be read or written.
    """
    records = [{"query": query} for query in queries]
    if input_file is not None:
        records += _from_jsonl(input_file)
    elif not records:
        records = [{"query": line} for line in _from_stdin()]
    if not records:
        where, message = (str(input_file), "contains no query") if input_file else ("QUERY", "is required")
        raise UserError.at(where, f"{message}; give queries as arguments, on standard input, or with --input")
    _check_output(output_file)
    queries_to_answer = [record["query"] for record in records]
    with tempfile.TemporaryDirectory(prefix="promptintern-") as local:
        with without_collection():
            from promptintern.commands.predict import load_internalized_model

            model = load_internalized_model(to_uri(adapter), Path(local), base_model=base_model)
        if model.warning:
            print_error(f"warning: {model.warning}")
        answers = [answer.text for answer in model.answer(queries_to_answer, batch_size=batch_size)]
    if output_file is None:
        write_lines(sys.stdout, (answer.strip() for answer in answers))
        return
    lines = (
        json.dumps(record | {"answer": answer}, ensure_ascii=False)
        for record, answer in zip(records, answers, strict=True)
    )
    if output_file == STDOUT:
        write_lines(sys.stdout, lines)
        return
    with Path(output_file).open("w", encoding="utf-8", errors="replace") as file:
        write_lines(file, lines)


def _check_output(output_file: str | None) -> None:
    """Check, before any answer is computed, that the output file can be written."""
    if output_file is None or output_file == STDOUT:
        return
    try:
        with Path(output_file).open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise UserError.at("--output", f"{output_file} cannot be written: {error.strerror}") from None


def _from_stdin() -> list[str]:
    if sys.stdin is None:
        return []
    try:
        return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError.at("standard input", f"is not UTF-8 text (byte {error.start})") from None


def _from_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects in the JSONL file ``path``, after checking that every object has a usable ``query``."""
    from promptintern_api.data import Columns

    from promptintern.rows.jsonl import parse_objects, read_lines
    from promptintern.rows.problems import ProblemList
    from promptintern.rows.record import RecordReader

    problems, shown = ProblemList(), str(path)
    reader = RecordReader(columns=Columns(), field="--input", problems=problems)
    records = []
    try:
        with path.open("rb") as file:
            for number, record in parse_objects(read_lines(file, problems, file_name=shown), problems, file_name=shown):
                if "query" in record:
                    reader.read_text(record["query"], f"{path}:{number}", 'the field "query"')
                else:
                    problems.add(f"{path}:{number}", 'has no field "query"')
                records.append(record)
    except OSError as error:
        raise UserError.at(str(path), f"cannot be read: {error.strerror}") from None
    listed = problems.summary(where=shown)
    if listed:
        raise UserError(listed)
    return records
