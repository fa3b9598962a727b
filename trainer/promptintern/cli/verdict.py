"""The terminal output at the end of a run: the verdict, the arms, and the locations of the report and adapter."""

from promptintern_api.contract import ADAPTER_FOLDER, REPORT_FOLDER, REPORT_HTML
from promptintern_api.metrics import Metric
from promptintern_api.training_status import VerdictOutcome
from rich.table import Table
from rich.text import Text

from promptintern.report.formatting import METRIC_NAMES, duration, shares
from promptintern.report.schema import ArmReport, Figure, Report
from promptintern.terminal import fitted_table, output_console
from promptintern.uris import display_uri

_COLOURS = {
    VerdictOutcome.INTERNALIZED: "green",
    VerdictOutcome.INCONCLUSIVE: "yellow",
    VerdictOutcome.NOT_INTERNALIZED: "red",
    VerdictOutcome.STOPPED_BY_GATE: "red",
}


def print_verdict(report: Report, run_uri: str) -> None:
    """Print the verdict, then a table with one row per arm, then the paths of the report and adapter."""
    out = output_console()
    verdict = report.verdict
    out.print(Text(f"\n{verdict.outcome}", style=f"bold {_COLOURS[verdict.outcome]}"), Text(f" {verdict.headline}"))
    arms = fitted_table(_arms_table(report), out)
    out.print(arms, soft_wrap=isinstance(arms, Text))
    for warning in report.warnings:
        out.print(Text(f"note: {warning}", style="yellow"), soft_wrap=True)
    if report.wall_time is not None:
        time, attempts = report.wall_time, report.wall_time.attempts
        over = f" over {attempts} attempts" if attempts > 1 else ""
        out.print(f"time:    {duration(time.seconds)}{over}: {shares(time.phases)}", soft_wrap=True)
    folder = display_uri(run_uri)
    out.print(f"report:  {folder}/{REPORT_FOLDER}/{REPORT_HTML}", soft_wrap=True)
    if verdict.arm is not None:
        out.print(f"adapter: {folder}/{ADAPTER_FOLDER}", soft_wrap=True)


def _arms_table(report: Report) -> Table:
    table = Table(title=f"{report.job.name}: {report.arms[0].rows} held-out queries", title_justify="left")
    table.add_column("arm", no_wrap=True)
    for metric in report.metrics:
        table.add_column(METRIC_NAMES[metric], justify="right", no_wrap=True)
    table.add_column("prompt tokens", justify="right", no_wrap=True)
    if any(arm.latency for arm in report.arms):
        table.add_column("latency", justify="right", no_wrap=True)
    if any(arm.cost_per_thousand is not None for arm in report.arms):
        table.add_column("cost per 1,000", justify="right", no_wrap=True)
    for arm in report.arms:
        table.add_row(*_cells(arm, report))
    return table


def _cells(arm: ArmReport, report: Report) -> list[str]:
    cells = [arm.name, *(_with_interval(arm.figure(metric), metric) for metric in report.metrics)]
    cells.append(f"{arm.prompt_tokens.mean:.1f}")
    if any(other_arm.latency for other_arm in report.arms):
        cells.append(f"{1000 * arm.latency.median_seconds:.0f} ms" if arm.latency else "")
    if any(other_arm.cost_per_thousand is not None for other_arm in report.arms):
        currency = report.prices.currency if report.prices else ""
        cells.append(f"{arm.cost_per_thousand:.4g} {currency}" if arm.cost_per_thousand is not None else "")
    return cells


def _with_interval(figure: Figure, metric: Metric) -> str:
    """Return the value and 95 % interval of ``figure`` as text."""
    if metric.is_share:
        return f"{100 * figure.value:.1f} % [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"
    return f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}]"
