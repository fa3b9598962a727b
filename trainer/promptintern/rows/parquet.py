"""Reads the records of a Parquet file in batches, with only the columns that the job names."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from promptintern_api.data import Columns

from promptintern.errors import first_line
from promptintern.rows.files.kinds import HEAD_BYTES, describe_kind
from promptintern.rows.problems import ProblemList

_BATCH = 8192


@dataclass(frozen=True, kw_only=True)
class ParquetColumns:
    """The columns of a Parquet file."""

    names: list[str]
    texts: list[str]
    """The columns of text."""


def read_columns(file: IO[bytes], problems: ProblemList, *, file_name: str) -> ParquetColumns | None:
    """Return the columns of ``file``. If it is not a readable Parquet file, add a problem and return None."""
    try:
        schema = pq.ParquetFile(file).schema_arrow
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        file.seek(0)
        head = file.read(HEAD_BYTES)
        kind = None if head.startswith(b"PAR1") else describe_kind(head)
        problems.add(file_name, kind or _unreadable(error))
        return None
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    return ParquetColumns(names=schema.names, texts=texts)


def read_records(
    file: IO[bytes], columns: Iterable[str], problems: ProblemList, *, file_name: str
) -> Iterator[dict[str, Any]]:
    """Yield the records of ``file`` in order, with only the given columns, all of which the file has.

    If the file is damaged, add a problem that names it.
    """
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH, columns=list(columns)):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problems.add(file_name, _unreadable(error))


def missing_columns(
    found: ParquetColumns,
    columns: Columns,
    problems: ProblemList,
    *,
    file_name: str,
    field: str,
    required: Sequence[str],
) -> bool:
    """Return whether a required column is missing, and add a problem for each of them.

    Args:
        required: The fields of ``columns`` that name a required column.
    """
    missing = [name for name in required if getattr(columns, name) not in found.names]
    for name in missing:
        problems.add(file_name, _missing_column(getattr(columns, name), found.names, f"{field}.columns.{name}"))
    return bool(missing)


def _unreadable(error: Exception) -> str:
    return f"is not a readable Parquet file: {first_line(error)}"


def _missing_column(column: str, names: list[str], setting: str) -> str:
    close = get_close_matches(column, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"has no column {column!r}; {hint}Columns: {', '.join(map(repr, names[:10]))}. Set {setting} to the right one"
    )
