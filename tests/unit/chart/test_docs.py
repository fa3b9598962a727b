"""docs/chart.md lists all values of the chart, and the pages agree with the chart's notes."""

import os
import re

from tests.unit.chart.conftest import CHART, DEFAULTS, ROOT, SCHEMA, leaves
from tests.unit.chart.test_values import RENEW
from tests.unit.chart.values_table import comments, table

PAGE = ROOT / "docs" / "chart.md"
BEGIN, END = "<!-- values: begin -->\n", "\n<!-- values: end -->"


def test_every_value_has_a_comment() -> None:
    texts = comments()
    missing = [path for path in leaves(SCHEMA, DEFAULTS) if not texts.get(path)]
    assert not missing


def test_the_table_of_values_is_up_to_date() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page = before + BEGIN + table() + END + after
    if os.environ.get(RENEW):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, f"{PAGE} is stale: {RENEW}=1 pytest tests/unit/chart"


def test_every_upgrade_keeps_values_by_the_same_option() -> None:
    """With `--reuse-values`, the templates of a new chart get no value that only the new chart has."""
    commands = [
        command
        for page in (CHART / "templates/NOTES.txt", ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for command in re.findall(r"helm upgrade (?:.*\\\n)*.*", page.read_text())
    ]
    assert len(commands) >= 4
    for command in commands:
        assert "--reset-then-reuse-values" in command
