"""Reads the records of a Parquet file in batches, with only the columns that the job names."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from promptintern_api.data import Columns

from promptintern.errors import first_line
from promptintern.rows.problems import ProblemList

_BATCH = 8192


def read_records(
    file: IO[bytes],
    columns: Columns,
    problems: ProblemList,
    *,
    file_name: str,
    field: str,
    required: Sequence[str] = ("query", "answer"),
) -> Iterator[dict[str, Any]]:
    """Yield the records of ``file`` in order.

    If the file is not a readable Parquet file or lacks a required column, add a problem that names the file.

    Args:
        required: The fields of ``columns`` that name a required column.
    """
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        missing = [name for name in required if getattr(columns, name) not in names]
        for name in missing:
            problems.add(file_name, _missing_column(getattr(columns, name), names, f"{field}.columns.{name}"))
        if missing:
            return
        optional = [columns.answers, columns.tests, columns.test_setup, columns.id]
        columns_to_read = dict.fromkeys([columns.query, columns.answer, *optional])
        for batch in table.iter_batches(batch_size=_BATCH, columns=[name for name in columns_to_read if name in names]):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problems.add(file_name, f"is not a readable Parquet file: {first_line(error)}")


def _missing_column(column: str, names: list[str], setting: str) -> str:
    close = get_close_matches(column, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"has no column {column!r}; {hint}Columns: {', '.join(map(repr, names[:10]))}. Set {setting} to the right one"
    )
