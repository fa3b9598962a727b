"""The report as Markdown, and the comparison of several runs: what they show, and what they cannot be made to do."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.report.build import build_report
from promptintern.report.html import render_comparison
from promptintern.report.markdown import compare_cells, compare_markdown, escape, group_by_seed, render_markdown
from promptintern.report.schema import Report

from tests.unit.report.figures import facts

HOSTILE = "<script>alert(1)</script> [x](http://a) `rm` | @all \u202e\x1b[2J\nnew *line*"


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(facts())


def with_seed(report: Report, seed: int, **job: object) -> Report:
    seeds = report.reproducibility.model_copy(update={"seeds": {"training": seed}})
    return report.model_copy(update={"reproducibility": seeds, "job": report.job.model_copy(update=job)})


def test_it_has_the_verdict_every_arm_and_every_comparison(report: Report) -> None:
    text = render_markdown(report)
    assert text.startswith(f"# team\\-a/quickstart: {report.verdict.outcome}")
    assert escape(report.verdict.headline) in text
    for arm in report.arms:
        assert f"| {arm.name} |" in text
    assert text.count(" − ") == len(report.comparisons)
    for warning in report.warnings:
        assert escape(warning) in text


def _tables(text: str) -> list[list[str]]:
    return [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]


def test_every_row_of_a_table_has_all_cells(report: Report) -> None:
    rows = _tables(render_markdown(report))
    assert {len(row) for row in rows} == {len(rows[0]), 5}


def test_what_names_and_warnings_hold_stays_text(report: Report) -> None:
    job = report.job.model_copy(update={"name": HOSTILE})
    bad = report.model_copy(update={"job": job, "warnings": [HOSTILE, "x" * 10**6]})
    text = render_markdown(bad)
    assert not re.search(r"(?<!\\)[<`@\[]|\x1b|\u202e", text)
    assert len(text) < 20_000
    page = render_comparison([bad])
    assert ("<script>" not in page and "\u202e" not in page.replace("&#8238;", "")) or "&lt;script&gt;" in page
    assert len(page) < 100_000


@given(st.text(max_size=80))
def test_escaped_text_is_one_line_without_marks(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>`|*\[\]@]", escaped)


def test_runs_that_differ_in_seeds_are_one_row(report: Report) -> None:
    runs = [with_seed(report, seed, name=f"seed-{seed}") for seed in range(3)]
    (group,) = group_by_seed(runs)
    assert len(group.reports) == 3
    heads, rows = compare_cells(runs)
    assert len(rows) == 1 and len(rows[0]) == len(heads)
    assert rows[0][0] == "team-a/seed-0 and 2 more"
    assert "seeds: " in rows[0][heads.index("QueryOnly")]


@pytest.mark.parametrize(
    "change", [{"model_digest": "other"}, {"learning_rate": 0.5}, {"settings": {"compressor": "x"}}]
)
def test_runs_that_differ_in_anything_else_are_rows_of_their_own(report: Report, change: dict[str, object]) -> None:
    runs = [report, with_seed(report, 1, **change)]
    assert len(compare_cells(runs)[1]) == 2
    lines = compare_markdown(runs).splitlines()
    assert len(lines) == 4
    assert len({line.count(" | ") for line in lines}) == 1
