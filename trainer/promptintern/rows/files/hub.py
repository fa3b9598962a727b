"""The files of a data set on a hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptintern.errors import UserError
from promptintern.hub import hub_errors
from promptintern.rows.files.names import choose_names, find_splits, is_data, is_pattern, misplaced_pattern

_URI = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<path>.*))?")
_FORM = "hf://datasets/ORG/NAME, hf://datasets/ORG/NAME@REVISION or hf://datasets/ORG/NAME/FILE"
_MOST_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set on a hub, at one commit."""

    uri: str
    """The URI without the path in the data set."""
    name: str
    commit: str | None
    path: str
    """The path of a file, a folder or a pattern in the data set, or "" for the whole data set."""
    files: Sequence[str]
    """The paths of all files."""

    def choose(self, split: str | None, *, field: str) -> list[str]:
        """Return the paths of the files that ``path`` and ``split`` name, sorted.

        The files of a split are those whose name, or whose folder, is that of the split: train.jsonl,
        data/train-00000-of-00002.parquet, or all files of train/. Without ``split``, the data files must belong to
        at most one split.

        Raises:
            UserError: if there are none, or files of several formats, several splits or several folders.
        """
        where = f"{self.uri}/{self.path}" if self.path else self.uri
        at_split = field.removesuffix("uri") + "split"
        if self.path in self.files:
            if split is not None:
                raise UserError.at(at_split, "cannot be combined with the URI of one file")
            return [self.path]
        below = [path for path in self.files if path.startswith(_below(self.path))]
        if split is not None:
            found = _of_split(below, split)
            if not found:
                raise UserError.at(at_split, f"{where} has no split {split!r}; its files are {_listed(self.files)}")
            return self._of_one_folder(found, "*", where=f"split {split} of {where}", field=field)
        if below:
            return self._of_whole_folder(below, where=where, field=field)
        folder, _, pattern = self.path.rpartition("/")
        found = [path for path in self.files if _folder_of(path) == folder]
        if not found and is_pattern(folder):
            raise misplaced_pattern(where, field=field)
        if not found:
            raise UserError.at(
                field,
                f"{where} has no such folder or file; set `split`, or name one of its files: {_listed(self.files)}",
            )
        return self._of_one_folder(found, pattern, where=where, field=field)

    def _of_whole_folder(self, below: Sequence[str], *, where: str, field: str) -> list[str]:
        """Return the data files in the folder ``path`` or, if there are none, in the only folder below that has any.

        Args:
            below: The paths of all files below the folder.
        """
        data = [path for path in below if is_data(path)]
        top = [path for path in data if _folder_of(path) == self.path.strip("/")]
        splits = find_splits(path.removeprefix(_below(self.path)) for path in top or data)
        if len(splits) > 1:
            raise UserError.at(
                field.removesuffix("uri") + "split",
                f"is needed, because {where} has several splits; set one of: {', '.join(splits[:_MOST_LISTED])}",
            )
        if not data:
            choose_names([path.rpartition("/")[2] for path in below], "*", where=where, field=field)
        return self._of_one_folder(top or data, "*", where=where, field=field)

    def _of_one_folder(self, paths: Sequence[str], pattern: str, *, where: str, field: str) -> list[str]:
        folders = sorted({_folder_of(path) for path in paths})
        if len(folders) > 1:
            listed = ", ".join(folder or "the top folder" for folder in folders[:_MOST_LISTED])
            raise UserError.at(
                field,
                f"{where} has files in several folders ({listed}), which may be several variants of the data; name one "
                f"of them, as in {self.uri}/{folders[-1]}",
            )
        (folder,) = folders
        names = choose_names([path.rpartition("/")[2] for path in paths], pattern, where=where, field=field)
        return [f"{folder}/{name}" if folder else name for name in names]

    def download(self, path: str, *, field: str) -> Path:
        """Return the local copy of a file, which is downloaded if the hub's cache does not hold it yet.

        Raises:
            UserError: if the file may not be read.
            InfrastructureFailed: if the hub does not respond.
        """
        from huggingface_hub import hf_hub_download

        with hub_errors(field, f"the data set {self.name}", name=self.name):
            return Path(hf_hub_download(self.name, path, repo_type="dataset", revision=self.commit))


def find_dataset(uri: str, *, field: str) -> HubDataset:
    """Return the data set that ``uri`` names, at the commit to which its revision leads now.

    A slash in a revision is written as %2F, as in refs%2Fpr%2F1.

    Raises:
        UserError: at ``field``, if ``uri`` has another form, or the data set does not exist or may not be read.
        InfrastructureFailed: if the hub does not respond.
    """
    from huggingface_hub import HfApi

    match = _URI.fullmatch(uri)
    if match is None:
        raise UserError.at(field, f"{uri} is no data set on a hub; give {_FORM}")
    name, path = match["name"], match["path"] or ""
    revision = match["revision"].replace("%2F", "/") if match["revision"] else None
    with hub_errors(field, f"the data set {name}@{revision or 'main'}", name=name):
        api = HfApi()
        commit = api.dataset_info(name, revision=revision).sha
        files = api.list_repo_files(name, repo_type="dataset", revision=commit)
    root = uri.removesuffix(f"/{path}") if path else uri.removesuffix("/")
    return HubDataset(uri=root, name=name, commit=commit, path=path, files=files)


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _below(folder: str) -> str:
    return f"{folder.strip('/')}/" if folder.strip("/") else ""


def _of_split(paths: Sequence[str], split: str) -> list[str]:
    is_named = re.compile(rf"(^|.*/){re.escape(split)}(-[0-9][^/]*|\.[^/]*|/[^/]*)")
    return [path for path in paths if is_named.fullmatch(path)]


def _listed(paths: Sequence[str]) -> str:
    names = sorted(path for path in paths if not path.startswith("."))
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more
