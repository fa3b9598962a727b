"""The choice of the data files of a folder, or of those that match a pattern."""

import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from promptintern.errors import UserError
from promptintern.rows.files.compressed import plain_name

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
"""The suffixes of the data files of a folder; other files, such as a README, are left out."""
_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""The files in which the library `datasets` describes a data set."""
_MOST_FILES = 10_000
_SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}
_SHARD = re.compile(r"(?P<name>.+?)(?P<number>-\d+-of-\d+|-\d[^.]*)?\.[^/]*", re.DOTALL)


def is_pattern(name: str) -> bool:
    """Return whether ``name`` has a character that stands for others, as in the patterns of shells."""
    return any(character in name for character in "*?[")


def misplaced_pattern(where: str, *, field: str) -> UserError:
    """Return the error of a path whose folders are a pattern, which leads to no file."""
    return UserError.at(
        field, f"{where} leads to no file: only the last part of a path may be a pattern, as in rows/train-*.parquet"
    )


def is_data(path: str) -> bool:
    """Return whether the file is one of data by its name.

    Names that begin with a dot or an underscore are hidden, or mark that a writer has finished.
    """
    name = path.rpartition("/")[2]
    return plain_name(name).endswith(SUFFIXES) and not name.startswith((".", "_")) and name not in _METADATA


def find_splits(paths: Iterable[str]) -> list[str]:
    """Return the splits of a data set to which files belong by their names or their folders, sorted.

    A file belongs to the split ``train`` if its name is ``train.jsonl``, ``train-00000-of-00002.parquet`` or
    ``train/rows.csv``. Shards as in the second name may belong to a split of any name, such as ``train_sft``.
    """
    return sorted({split for path in paths if (split := _split_of(path)) is not None})


def _split_of(path: str) -> str | None:
    folder, _, name = path.rpartition("/")
    shard = _SHARD.fullmatch(name)
    if shard and ("-of-" in (shard["number"] or "") or shard["name"].lower() in _SPLITS):
        return shard["name"]
    last = folder.rpartition("/")[2]
    return last if last.lower() in _SPLITS else None


def choose_names(names: Iterable[str], pattern: str, *, where: str, field: str) -> list[str]:
    """Return the names of data files that match ``pattern``, sorted.

    Args:
        names: The names of all files of a folder.
        pattern: A pattern as in shells, such as ``train-*.parquet``; ``*`` means all data files.
        where: The folder or the pattern as the user wrote it.
        field: The field of the job, for messages.

    Raises:
        UserError: if no file matches, or files of several formats or too many files match, or if ``pattern`` is ``*``
            and the files belong to several splits.
    """
    matching = [name for name in names if fnmatch.fnmatchcase(name, pattern) and not name.startswith((".", "_"))]
    chosen = sorted(name for name in matching if (is_data(name) if pattern == "*" else name not in _METADATA))
    if not chosen:
        raise UserError.at(field, f"{where} names no data file{_no_data_hint(matching) if pattern == '*' else ''}")
    if len(chosen) > _MOST_FILES:
        raise UserError.at(field, f"{where} names {len(chosen)} files; give at most {_MOST_FILES}")
    formats = sorted({Path(plain_name(name)).suffix for name in chosen})
    if len(formats) > 1:
        raise UserError.at(
            field,
            f"{where} names files of several formats ({', '.join(formats)}); give a pattern, such as *{formats[0]}",
        )
    splits = find_splits(chosen) if pattern == "*" else []
    if len(splits) > 1:
        first = next((split for split in splits if split.lower().startswith("train")), splits[0])
        raise UserError.at(
            field,
            f"{where} has files of several splits ({', '.join(splits)}); give a pattern, such as {first}* for the "
            f"files of one split, or *{formats[0]} for all files",
        )
    return chosen


def _no_data_hint(names: Iterable[str]) -> str:
    if any(name in ("state.json", "dataset_dict.json") or name.endswith((".arrow", ".feather")) for name in names):
        return (
            "; Arrow files, as dataset.save_to_disk writes them, are not read: write the data set as Parquet, with "
            'dataset.to_parquet("rows.parquet")'
        )
    return f"; the names of data files end with {', '.join(SUFFIXES)}, and files in subfolders are read only on a hub"
