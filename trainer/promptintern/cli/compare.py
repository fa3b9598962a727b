"""The command `promptintern compare`: several runs in one table, and in one file."""

from collections.abc import Sequence
from pathlib import Path

from promptintern_api.contract import REPORT_FOLDER, REPORT_JSON
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from promptintern.errors import UserError
from promptintern.report.html import render_comparison
from promptintern.report.markdown import compare_cells, compare_markdown
from promptintern.report.schema import Report, report_from_json
from promptintern.storage.store import open_store
from promptintern.terminal import fitted_table, output_console, print_line
from promptintern.uris import display_uri

_WRITERS = {".md": compare_markdown, ".html": render_comparison}


def compare_runs(uris: Sequence[str], output: Path | None) -> None:
    """Print the runs at ``uris`` as one table, and write it to ``output``.

    Raises:
        UserError: if a run has no report that this version can read, or if the kind of ``output`` is unknown.
    """
    if output is not None and output.suffix not in _WRITERS:
        raise UserError.at("--output", f"must end in {' or '.join(_WRITERS)}, not in {output.suffix or 'nothing'}")
    reports = [_read(uri) for uri in uris]
    heads, rows = compare_cells(reports)
    table = Table()
    for head in heads:
        table.add_column(Text(head))
    for row in rows:
        table.add_row(*map(Text, row))
    out = output_console()
    shown = fitted_table(table, out)
    out.print(shown, soft_wrap=isinstance(shown, Text))
    if output is not None:
        output.write_text(_WRITERS[output.suffix](reports), encoding="utf-8")
        print_line(f"written: {output}")


def _read(uri: str) -> Report:
    store, name = open_store(uri), f"{REPORT_FOLDER}/{REPORT_JSON}"
    where = f"{display_uri(uri)}/{name}"
    try:
        return report_from_json(store.read(name))
    except FileNotFoundError:
        raise UserError.at(where, "is missing; give the folder of a finished run") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError.at(
            where,
            f"is no report that this version can read ({place}: {first['msg']}); `promptintern report` writes it again",
        ) from None
