"""The verdict on terminals of any width."""

import pytest
from promptintern.cli.verdict import print_verdict
from promptintern.report.build import build_report
from promptintern_api.metrics import Metric

from tests.unit.report.figures import BOTH, facts


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_no_figure_is_cut(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    report = build_report(facts(metrics=BOTH, rows=120))
    print_verdict(report, "file:///runs/a%20b")
    shown = capsys.readouterr().out
    assert "…" not in shown
    for arm in report.arms:
        assert arm.name in shown
        figure = arm.figure(Metric.EXACT_MATCH)
        assert f"{100 * figure.low:.1f}, {100 * figure.high:.1f}]" in shown
    assert "/runs/a b/report/report.html" in shown
