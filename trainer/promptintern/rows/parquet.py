"""Reads the records of a Parquet file in batches, with only the columns that are needed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from promptintern.errors import first_line
from promptintern.rows.files.kinds import HEAD_BYTES, describe_kind
from promptintern.rows.problems import ProblemList

_BATCH = 1024


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
    return ParquetColumns(names=schema.names, texts=[field.name for field in schema if _is_text(field.type)])


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


def _unreadable(error: Exception) -> str:
    return f"is not a readable Parquet file: {first_line(error)}"


def _is_text(kind: pa.DataType) -> bool:
    """Return whether the values of a column of this type are texts, in whichever way they are stored."""
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
