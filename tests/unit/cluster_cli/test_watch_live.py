"""What --watch draws on a terminal."""

import io
from typing import Any

from promptintern.cli.cluster import _watch_live
from rich.console import Console

from tests.unit.cluster_cli.documents import condition, stored, training
from tests.unit.cluster_cli.test_watch import AWAY, ONE, Script


def test_it_is_redrawn_and_ends_with_the_job(monkeypatch: Any) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    over = stored(
        {"metadata.resourceVersion": "3"},
        phase="Succeeded",
        conditions=[condition("Succeeded", "True", "Succeeded", "done")],
    )
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    script: Any = Script([ONE, AWAY, ONE], [[(False, training()), AWAY], [(False, over)]])
    assert _watch_live(console, script, "small", "") == over
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    for text in ("Checking", "stage 2: step 30/120", "away; trying again"):
        assert text in drawn


def test_a_job_that_is_deleted() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    script: Any = Script([ONE], [[(True, ONE)]])
    assert _watch_live(console, script, "small", "") is None
