"""docs/chart.md says what the chart does."""

import os

from tests.unit.chart.conftest import DEFAULTS, ROOT, SCHEMA, leaves
from tests.unit.chart.reference import comments, table
from tests.unit.chart.test_values import RENEW

PAGE = ROOT / "docs" / "chart.md"
BEGIN, END = "<!-- values: begin -->\n", "\n<!-- values: end -->"


def test_every_value_has_a_comment() -> None:
    said = comments()
    sizes = {path for path in leaves(SCHEMA, DEFAULTS) if path[0] == "podSizes"}
    silent = [path for path in leaves(SCHEMA, DEFAULTS) if not said.get(path[:-1] if path in sizes else path)]
    assert not silent


def test_the_table_of_values_is_fresh() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page = before + BEGIN + table() + END + after
    if os.environ.get(RENEW):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, f"{PAGE} is stale: {RENEW}=1 pytest tests/unit/chart"
