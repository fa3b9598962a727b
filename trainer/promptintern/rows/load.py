"""Loads the rows of a data file. Every problem is reported at its line."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any, Generic, Literal, TypeVar, cast

import pyarrow as pa
from promptintern_api.data import DataFormat, DataSource

from promptintern.errors import Problem, UserError, first_line
from promptintern.rows.chat import UNREADABLE_COLUMNS, ChatReader
from promptintern.rows.columns import CHAT_COLUMNS, chat_column, is_read_as_chat, may_be_unused
from promptintern.rows.delimited import delimiter_of, read_table
from promptintern.rows.files.compressed import plain_name, unpacked
from promptintern.rows.files.hashing import HashingReader
from promptintern.rows.files.source import DataFile, data_files
from promptintern.rows.jsonl import describe_wrapped, parse_objects, read_lines
from promptintern.rows.parquet import read_columns, read_records
from promptintern.rows.problems import ProblemList
from promptintern.rows.record import RecordReader
from promptintern.rows.types import Query, Row
from promptintern.storage.options import S3Options
from promptintern.uris import display_uri

Q = TypeVar("Q", bound=Query)


@dataclass(frozen=True, kw_only=True)
class LoadedRows(Generic[Q]):
    """The content of a data source."""

    rows: list[Q]
    """The rows or queries in which no problem was found."""
    sha256: str
    """The digest of the whole file, even if a limit leaves out some of the rows. The digest of several files is that of
    their names and digests; files that a limit leaves out are not read.
    """
    problems: list[Problem]
    """The first problems of the file and its rows. If there are more, a last problem states their number."""
    system: str | None = None
    """The system message that all rows of a chat file share."""
    warnings: Sequence[str] = ()


def load_rows(source: DataSource, *, field: str, s3: S3Options | None = None) -> LoadedRows[Row]:
    """Load the rows of ``source``, which is the job's field ``field`` (such as ``spec.data.train``).

    Problems of the file and its rows, including a missing or unreadable file, are returned in ``problems``.

    Raises:
        RunFailed: if the S3 server cannot be reached or keeps failing.
    """
    return cast("LoadedRows[Row]", _load(source, field=field, s3=s3, labelled=True))


def load_queries(source: DataSource, *, field: str, s3: S3Options | None = None) -> LoadedRows[Query]:
    """Load the queries of ``source`` as ``load_rows`` loads rows, without reading any answers."""
    return _load(source, field=field, s3=s3, labelled=False)


def _load(source: DataSource, *, field: str, s3: S3Options | None, labelled: bool) -> LoadedRows[Query]:
    problems = ProblemList()
    reader = RecordReader(columns=source.columns, field=field, problems=problems, labelled=labelled)
    try:
        if source.uri.startswith("sample://") and source.split is None:
            parts = [_load_sample(source, reader)]
        else:
            parts = _load_files(source, data_files(source, field=f"{field}.uri", s3=s3), reader)
    except UserError as error:
        return LoadedRows(rows=[], sha256="", problems=list(error.problems))
    rows = [row for part in parts for row in part.rows]
    if not rows and not problems.count:
        problems.add(f"{field}.uri", f"{display_uri(source.uri)} contains no rows")
    return LoadedRows(
        rows=rows,
        sha256=_digest(parts),
        problems=problems.summary(where=display_uri(source.uri)),
        system=next((part.system for part in parts if part.system is not None), None),
        warnings=reader.warnings() if rows else (),
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The content of one file."""

    uri: str
    rows: list[Query]
    sha256: str
    system: str | None = None
    is_chat: bool = False
    records: int = 0
    """The number of records that were read, with and without problems."""
    last: int = 0
    """The number of the last record that was read."""


@dataclass(frozen=True, kw_only=True)
class _ReadRows:
    rows: list[Query]
    records: int
    last: int


def _load_files(source: DataSource, files: Sequence[DataFile], reader: RecordReader) -> list[_Part]:
    """Load the rows of ``files``, which follow each other, up to the limit of ``source``."""
    parts: list[_Part] = []
    for each in files:
        read = sum(part.records for part in parts)
        left = None if source.limit is None else source.limit - read
        if left is not None and left < 1:
            break
        one = source.model_copy(update={"uri": each.uri, "limit": left})
        with each.open() as file:
            load = _load_parquet if _is_parquet(one) else _load_lines
            part = load(one, file, reader, parts[-1].last if parts else 0)
        chats = [earlier for earlier in parts if earlier.is_chat and earlier.records]
        if chats and part.is_chat and part.records and part.system != chats[0].system:
            reader.problems.add(
                display_uri(each.uri),
                f"has another system message than {display_uri(chats[0].uri)}, or one of them has none; the prompt of "
                "all rows must be the same",
            )
        parts.append(part)
    return parts


def _digest(parts: Sequence[_Part]) -> str:
    """Return the digest of the only file, or of the names and the digests of all files."""
    if len(parts) == 1:
        return parts[0].sha256
    lines = [f"{part.uri.rpartition('/')[2]} {part.sha256}\n" for part in parts]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_parquet(source: DataSource) -> bool:
    if source.format is DataFormat.PARQUET:
        return True
    return source.format in (DataFormat.AUTO, DataFormat.CHAT) and plain_name(source.uri).endswith(".parquet")


def _table_kind(source: DataSource) -> Literal["csv", "tsv"] | None:
    """Return which kind of a table of text the source is, or None if it is none."""
    if source.format in (DataFormat.CSV, DataFormat.TSV):
        return "csv" if source.format is DataFormat.CSV else "tsv"
    name = plain_name(source.uri)
    if source.format is not DataFormat.AUTO or not name.endswith((".csv", ".tsv")):
        return None
    return "csv" if name.endswith(".csv") else "tsv"


def _load_sample(source: DataSource, reader: RecordReader) -> _Part:
    from promptintern.sample import sample_rows

    try:
        records = sample_rows(source.uri)
    except UserError as error:
        raise UserError(
            [Problem(where=f"{reader.field}.uri", message=problem.message) for problem in error.problems]
        ) from None
    digest = hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
    numbered = ((f"{source.uri}:{i}", i, record) for i, record in enumerate(records, start=1))
    return _Part(uri=source.uri, rows=_rows(numbered, reader, source.limit).rows, sha256=digest)


def _load_lines(source: DataSource, file: IO[bytes], records: RecordReader, first: int) -> _Part:
    """Load a file of lines, which may be compressed: JSON Lines, chat rows, or a table of text.

    ``first`` is the number of the last record of the file before.
    """
    name, problems = display_uri(source.uri), records.problems
    hashing = HashingReader(file)
    kind = _table_kind(source)
    content = unpacked(cast("IO[bytes]", hashing))
    columns = source.columns
    objects = (
        read_table(
            content,
            problems,
            file_name=name,
            delimiter=delimiter_of(kind),
            lists=[columns.answer, columns.answers, columns.tests],
        )
        if kind
        else parse_objects(read_lines(content, problems, file_name=name), problems, file_name=name)
    )
    try:
        return _load_records(source, objects, records, hashing, first)
    except (OSError, EOFError, pa.ArrowException) as error:
        problems.add(name, f"is damaged, or is not compressed as its first bytes say: {first_line(error)}")
        return _Part(uri=source.uri, rows=[], sha256=hashing.digest_of_all(), last=first)


def _load_records(
    source: DataSource,
    objects: Iterator[tuple[int, dict[str, Any]]],
    records: RecordReader,
    hashing: HashingReader,
    first: int,
) -> _Part:
    name = display_uri(source.uri)
    begin = list(islice(objects, 2))
    reader = _choose_reader(source, begin[0][1].keys() if begin else (), records)
    if len(begin) == 1 and not {source.columns.query, *CHAT_COLUMNS} & begin[0][1].keys():
        number, record = begin[0]
        if wrong := describe_wrapped(record):
            records.problems.add(f"{name}:{number}", wrong)
            return _part(source, _ReadRows(rows=[], records=1, last=first + number), reader, hashing.digest_of_all())
    numbered = ((f"{name}:{number}", first + number, record) for number, record in chain(begin, objects))
    read = _rows(numbered, reader, source.limit, first=first)
    return _part(source, read, reader, hashing.digest_of_all())


def _choose_reader(source: DataSource, names: Collection[str], records: RecordReader) -> RecordReader | ChatReader:
    """Return the reader of a file with the columns ``names``."""
    if is_read_as_chat(names, source.columns, source.format):
        return ChatReader(reader=records)
    if source.format in (DataFormat.AUTO, DataFormat.PARQUET):
        records.unused_chat = records.unused_chat or chat_column(names)
    return records


def _part(source: DataSource, read: _ReadRows, reader: RecordReader | ChatReader, digest: str) -> _Part:
    chat = reader if isinstance(reader, ChatReader) else None
    return _Part(
        uri=source.uri,
        rows=read.rows,
        sha256=digest,
        system=chat.system if chat else None,
        is_chat=chat is not None,
        records=read.records,
        last=read.last,
    )


def _load_parquet(source: DataSource, file: IO[bytes], records: RecordReader, first: int) -> _Part:
    digest = HashingReader(file).digest_of_all()
    file.seek(0)
    name, columns = display_uri(source.uri), source.columns
    found = read_columns(file, records.problems, file_name=name)
    if found is None:
        return _Part(uri=source.uri, rows=[], sha256=digest, last=first)
    reader = _choose_reader(source, found.names, records)
    if isinstance(reader, ChatReader):
        own = [*CHAT_COLUMNS, *UNREADABLE_COLUMNS]
    elif reader.lacks_columns(found.names, name):
        return _Part(uri=source.uri, rows=[], sha256=digest, last=first)
    else:
        own = [columns.query, columns.answer]
    texts = [each for each in found.texts if may_be_unused(each)]
    wanted = dict.fromkeys([*own, columns.answers, columns.tests, columns.test_setup, columns.id, *texts])
    file.seek(0)
    rows = read_records(file, [each for each in wanted if each in found.names], records.problems, file_name=name)
    numbered = ((f"{name}#{number}", first + number, record) for number, record in enumerate(rows, start=1))
    return _part(source, _rows(numbered, reader, source.limit, first=first), reader, digest)


def _rows(
    numbered: Iterable[tuple[str, int, Mapping[str, Any]]],
    reader: RecordReader | ChatReader,
    limit: int | None,
    *,
    first: int = 0,
) -> _ReadRows:
    """Return the valid rows among the first ``limit`` records, or among all records if ``limit`` is None.

    ``first`` is the number of the last record of the file before.
    """
    rows, records, last = [], 0, first
    for where, number, record in islice(numbered, limit):
        records, last = records + 1, number
        row = reader.read(record, where=where, number=number)
        if row is not None:
            rows.append(row)
    return _ReadRows(rows=rows, records=records, last=last)
