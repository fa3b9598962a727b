"""The files of a data set on a hub."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from promptintern.errors import UserError
from promptintern.hub import hub_errors
from promptintern.rows.file_names import choose_names

_URI = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<path>.*))?")
_FORM = "hf://datasets/ORG/NAME, hf://datasets/ORG/NAME@REVISION or hf://datasets/ORG/NAME/FILE"
_MOST_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set on a hub."""

    name: str
    revision: str | None
    path: str
    """The path of a file, a folder or a pattern in the data set, or "" for the whole data set."""


def parse_uri(uri: str, *, field: str) -> HubDataset:
    """Return the data set that ``uri`` names. A slash in the revision is written as %2F, as in refs%2Fpr%2F1.

    Raises:
        UserError: at ``field``, if ``uri`` has another form.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise UserError.at(field, f"{uri} is no data set on a hub; give {_FORM}")
    revision = match["revision"]
    return HubDataset(
        name=match["name"], revision=revision.replace("%2F", "/") if revision else None, path=match["path"] or ""
    )


def hub_files(uri: str, *, split: str | None, field: str) -> Iterator[tuple[str, Path]]:
    """Yield the URI and the downloaded copy of each file of a data set on a hub, in the order of their names.

    Args:
        uri: The URI of the data set, or of a file, a folder or a pattern in it.
        split: The name of a split; its files are those whose name, or whose folder, begins with this name.
        field: The field of the job with the URI, for messages.

    Raises:
        UserError: if the data set or its files do not exist, or the token may not read them.
        InfrastructureFailed: if the hub does not respond.
    """
    from huggingface_hub import HfApi, hf_hub_download

    dataset = parse_uri(uri, field=field)
    what = f"the data set {dataset.name}@{dataset.revision or 'main'}"
    with hub_errors(field, what, name=dataset.name):
        paths = HfApi().list_repo_files(dataset.name, repo_type="dataset", revision=dataset.revision)
    chosen = _chosen(paths, dataset, split, where=uri, field=field)
    root = uri.removesuffix(f"/{dataset.path}") if dataset.path else uri
    for path in chosen:
        with hub_errors(field, what, name=dataset.name):
            local = hf_hub_download(dataset.name, path, repo_type="dataset", revision=dataset.revision)
        yield f"{root}/{path}", Path(local)


def _chosen(paths: list[str], dataset: HubDataset, split: str | None, *, where: str, field: str) -> list[str]:
    """Return the paths of the files that the user named, sorted."""
    if dataset.path in paths:
        if split is not None:
            raise UserError.at(field.removesuffix("uri") + "split", "cannot be combined with the URI of one file")
        return [dataset.path]
    if split is not None:
        found = _of_split([path for path in paths if path.startswith(_below(dataset.path))], split)
        if not found:
            raise UserError.at(
                field.removesuffix("uri") + "split", f"{where} has no split {split!r}; its files are {_listed(paths)}"
            )
        names = {path.rpartition("/")[2]: path for path in found}
        return [names[name] for name in choose_names(names, "*", where=f"split {split} of {where}", field=field)]
    folder, _, pattern = dataset.path.rpartition("/")
    if any(path.startswith(_below(dataset.path)) for path in paths):
        folder, pattern = dataset.path.strip("/"), "*"
    names = {path.rpartition("/")[2]: path for path in paths if path.rpartition("/")[0] == folder}
    if not names:
        raise UserError.at(
            field, f"{where} has no such folder or file; set `split`, or name one of its files: {_listed(paths)}"
        )
    return [names[name] for name in choose_names(names, pattern or "*", where=where, field=field)]


def _below(folder: str) -> str:
    return f"{folder.strip('/')}/" if folder.strip("/") else ""


def _of_split(paths: list[str], split: str) -> list[str]:
    """Return the files of a split: train-00000-of-00002.parquet, data/train.jsonl, and all of train/, for example."""
    is_named = re.compile(rf"(^|.*/){re.escape(split)}([-_.][^/]*|/[^/]*)")
    return [path for path in paths if is_named.fullmatch(path)]


def _listed(paths: list[str]) -> str:
    names = sorted(path for path in paths if not path.startswith("."))
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more
