"""Status on terminals of any width."""

import io

import pytest
from promptintern.cluster.status_view import job_blocks, jobs_table
from rich.console import Console
from rich.text import Text

from tests.unit.cluster_cli.documents import NOW, condition, stored, training


def printed(columns: int, *, terminal: bool = True, job: object = None) -> str:
    console = Console(file=io.StringIO(), width=columns, force_terminal=terminal, color_system=None, highlight=False)
    for block in job_blocks(job or training(), now=NOW, console=console, flags=" -n team-a"):  # type: ignore[arg-type]
        console.print(block, soft_wrap=isinstance(block, Text))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("columns", [30, 80, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_no_figure_is_cut(columns: int, terminal: bool) -> None:
    shown = printed(columns, terminal=terminal)
    assert "…" not in shown
    for figure in (
        "1234.5",
        "0.5123",
        "0.875",
        "800.2",
        "0.67",
        "33 min",
        "30/120 (25 %)",
        "small-a2",
        "Infrastructure",
    ):
        assert figure in shown
    assert "pod small-a2-w on n1: OOMKilled, exit code 137" in shown
    assert "node worker-7 went away" in shown
    assert "\x1b[31m" not in shown


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_where_they_fit(columns: int) -> None:
    lines = printed(columns).splitlines()
    assert max(map(len, lines)) <= columns
    row = next(line for line in lines if line.split()[:2] == ["1", "1.00"])
    assert row.split() == ["1", "1.00", "5", "1234.5", "0.5123", "0.875", "33", "min"]
    assert any("━" in line for line in lines)  # the bar


def test_a_job_that_has_ended() -> None:
    outputs = {"adapter": "s3://team-a/runs/adapter", "report": "s3://team-a/runs/report/report.html"}
    job = stored(
        phase="Succeeded",
        conditions=[condition("Succeeded", "True", "Succeeded", "attempt 1: done")],
        attempts=[{"number": 1, "rayJobName": "small-a1", "headPods": 1, "outcome": "Succeeded"}],
        training={"term": 1, "stages": [], "outputs": outputs},
        startTime="2026-01-02T10:00:00Z",
        completionTime="2026-01-02T11:00:00Z",
    )
    shown = printed(80, job=job)
    assert "team-a/small Succeeded · took 1 h" in shown
    assert "adapter: s3://team-a/runs/adapter" in shown
    assert "promptintern fetch small ./small -n team-a" in shown
    assert "attempts" not in shown  # a single successful attempt is not shown


@pytest.mark.parametrize("columns", [20, 80])
def test_the_list(columns: int) -> None:
    console = Console(file=io.StringIO(), width=columns, highlight=False)
    jobs = [stored(phase="Training", stage="2/4", tokens=42.5, score="0.910"), stored(phase=None)]
    console.print(jobs_table(jobs, now=NOW, console=console, all_namespaces=True))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for text in ("team-a", "small", "Training", "2/4", "42.5", "0.910", "1h"):
        assert text in shown
