"""Texts of models, jobs and pods neither control the terminal nor use markup."""

import io
import re
import subprocess
import sys
from typing import Any

import pytest
from promptintern.terminal import SafeConsole, print_error, print_line, printable, write_lines
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\x9b31md\u202ee\x7ff\x00[red]g[/red] :smile: [/no]"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def shown(*objects: Any, colours: bool = False, **more: Any) -> str:
    file = io.StringIO()
    SafeConsole(file=file, width=200, force_terminal=colours).print(*objects, **more)
    return file.getvalue()


def table() -> Table:
    made = Table(title=HOSTILE)
    made.add_column(HOSTILE)
    made.add_row(HOSTILE)
    made.add_row(Text(HOSTILE))
    return made


@pytest.mark.parametrize(
    "make",
    [lambda: HOSTILE, lambda: Text(HOSTILE), table, lambda: Panel(Text(HOSTILE))],
    ids=["text", "styled text", "table", "panel"],
)
def test_no_text_controls_the_terminal_or_uses_markup(make: Any) -> None:
    output = shown(make())
    assert not FORBIDDEN.search(output)
    assert "[red]g[/red] :smile: [/no]" in output


def test_the_colours_of_the_program_are_kept() -> None:
    assert "\x1b[33m" in shown(Text("warning", style="yellow"), colours=True)


def test_lines_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(HOSTILE)
    print_error(HOSTILE)
    captured = capsys.readouterr()
    for output in (captured.out, captured.err):
        assert not FORBIDDEN.search(output)
        assert "[red]g[/red]" in output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_answers_reach_a_program_unchanged_and_a_terminal_without_control_characters() -> None:
    program, terminal = io.StringIO(), Terminal()
    for file in (program, terminal):
        write_lines(file, [HOSTILE])
    assert program.getvalue() == HOSTILE + "\n"
    assert not FORBIDDEN.search(terminal.getvalue())


LOG = r"""
import os, pty, sys
from promptintern.terminal import write_log
write_log("12 %\r13 %\ttab ü € \x1b[2J \x9b31m \u202e end\n".encode())
"""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_log_reaches_a_terminal_without_control_characters(is_terminal: bool) -> None:
    program = f"import sys\nsys.stdout.isatty = lambda: {is_terminal}\n{LOG}"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.decode()
    assert output.startswith("12 %\r13 %\ttab ü € ")
    assert ("\x1b" in output, "\x9b" in output, "\u202e" in output) == (not is_terminal,) * 3


def test_line_ends_stay() -> None:
    assert printable("a\n\tb\xa0c\x1b") == "a\n b c "
