"""Files that hold no lines of text are named by what they are, with what to do, whatever they are called."""

import bz2
import gc
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from tests.unit.rows.test_formats import RECORDS, as_jsonl, as_parquet, load, write

LINES = as_jsonl(RECORDS)
TABLE = pa.Table.from_pylist(RECORDS)


def as_zip(name: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, LINES)
    return sink.getvalue()


def as_tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo("rows.jsonl")
        member.size = len(LINES)
        archive.addfile(member, io.BytesIO(LINES))
    return sink.getvalue()


def as_arrow_stream() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def as_feather() -> bytes:
    sink = io.BytesIO()
    feather.write_feather(TABLE, sink)
    return sink.getvalue()


KINDS = {
    "xz": (lzma.compress(LINES), "is packed with xz; unpack it first"),
    "bzip2": (bz2.compress(LINES), "is packed with bzip2; unpack it first"),
    "zip": (as_zip("rows.jsonl"), "is a zip archive; unpack it first"),
    "xlsx": (as_zip("[Content_Types].xml"), "is a workbook or another office document; save the sheet as CSV"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a workbook"),
    "tar": (as_tar(), "is a tar archive"),
    "arrow stream": (as_arrow_stream(), "is an Arrow file; write it as Parquet, with dataset.to_parquet"),
    "feather": (as_feather(), "is an Arrow file"),
    "sqlite": (b"SQLite format 3\0", "is an SQLite database"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
    "html": (b"<!DOCTYPE html>\n<html>\n", "is a page in HTML"),
    "zeros": (bytes(64), "begins with zero bytes, so it was probably not written completely"),
    "UTF-16": (LINES.decode().encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    "UTF-16, little": (LINES.decode().encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
    "UTF-16, big": (LINES.decode().encode("utf-16-be"), "is UTF-16 text; save it as UTF-8"),
    "UTF-32": (LINES.decode().encode("utf-32"), "is UTF-32 text; save it as UTF-8"),
    "UTF-32, little": (LINES.decode().encode("utf-32-le"), "is UTF-32 text; save it as UTF-8"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz"])
def test_a_file_of_another_kind_is_named_once(tmp_path: Path, name: str, kind: str) -> None:
    content, words = KINDS[kind]
    path = write(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    (problem,) = load(path).problems
    assert problem.where == str(path)
    assert problem.message.startswith(words)


@pytest.mark.parametrize(("name", "source"), [("rows.parquet.gz", {}), ("rows.gz", {"format": "Parquet"})])
def test_parquet_within_gzip_is_to_be_unpacked(tmp_path: Path, name: str, source: dict[str, str]) -> None:
    path = write(tmp_path, name, gzip.compress(as_parquet(RECORDS)))
    (problem,) = load(path, **source).problems
    assert problem.message == "is packed with gzip; unpack it first"
    (problem,) = load(write(tmp_path, "rows.gz", path.read_bytes())).problems
    assert "is a Parquet file; set format: Parquet, and unpack it first" in problem.message


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [0, 20])
def test_packed_files_are_read_without_a_word_of_arrow(
    tmp_path: Path, codec: str, cut: int, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(LINES)
    content = sink.getvalue().to_pybytes()
    loaded = load(write(tmp_path, "rows.jsonl", content[: len(content) - cut]))
    assert bool(loaded.problems) == bool(cut)
    gc.collect()
    assert capfd.readouterr().err == ""
