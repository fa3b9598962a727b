"""The choice of the data files of a folder, or of those that match a pattern."""

import fnmatch
from collections.abc import Iterable
from pathlib import Path

from promptintern.errors import UserError
from promptintern.rows.files.compressed import plain_name

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
"""The suffixes of the data files of a folder; other files, such as a README, are left out."""
_MOST_FILES = 10_000


def is_pattern(name: str) -> bool:
    """Return whether ``name`` has a character that stands for others, as in the patterns of shells."""
    return any(character in name for character in "*?[")


def choose_names(names: Iterable[str], pattern: str, *, where: str, field: str) -> list[str]:
    """Return the names of data files that match ``pattern``, sorted.

    Names that begin with a dot or an underscore are left out: they are hidden, or mark that a writer has finished.

    Args:
        names: The names of all files of a folder.
        pattern: A pattern as in shells, such as ``train-*.parquet``; ``*`` means all data files.
        where: The folder or the pattern as the user wrote it.
        field: The field of the job, for messages.

    Raises:
        UserError: if no file matches, or files of several formats or too many files match.
    """
    matching = [name for name in names if fnmatch.fnmatchcase(name, pattern) and not name.startswith((".", "_"))]
    chosen = sorted(name for name in matching if pattern != "*" or plain_name(name).endswith(SUFFIXES))
    if not chosen:
        hint = f"; the names of data files end with {', '.join(SUFFIXES)}" if pattern == "*" else ""
        raise UserError.at(field, f"{where} names no data file{hint}")
    if len(chosen) > _MOST_FILES:
        raise UserError.at(field, f"{where} names {len(chosen)} files; give at most {_MOST_FILES}")
    formats = sorted({Path(plain_name(name)).suffix for name in chosen})
    if len(formats) > 1:
        raise UserError.at(
            field,
            f"{where} names files of several formats ({', '.join(formats)}); give a pattern, such as *{formats[0]}",
        )
    return chosen
