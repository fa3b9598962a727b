"""The check that refuses the files of a run if a version of this program with another file format wrote them."""

from collections.abc import Mapping
from typing import Any

from promptintern_api.contract import RUN_FORMAT

from promptintern.errors import UserError


def check_format(document: Mapping[str, Any], where: str) -> None:
    """Check that ``document``, the JSON object at ``where``, has this version's format.

    An object without a format passes; the code that reads the object has to check it.

    Raises:
        UserError: if another version of this program wrote ``document``.
    """
    written = document.get("schemaVersion", RUN_FORMAT)
    if written == RUN_FORMAT:
        return
    raise UserError.at(
        where,
        f"was written by another version of promptintern (run format {written!s:.20}; this version reads "
        f"{RUN_FORMAT}); finish the run with that version, or give the job another name to start again",
    )
