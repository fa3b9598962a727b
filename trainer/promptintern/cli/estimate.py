"""The terminal output of ``promptintern prepare --estimate``."""

from rich.table import Table
from rich.text import Text

from promptintern.report import formatting
from promptintern.report.estimate import Estimate, advise
from promptintern.terminal import output_console

_COLOURS = {True: "green", False: "red", None: "yellow"}
_MAX_NAMED = 12


def print_estimate(estimate: Estimate) -> None:
    """Print whether it is worth trying, and the figures from which this follows."""
    out, metric, prompt = output_console(), estimate.metric, estimate.prompt
    advice = advise(estimate)
    out.print(Text(f"\n{advice.sentence}", style=f"bold {_COLOURS[advice.is_worth]}"))

    table = Table(show_header=False)
    rows = [
        (
            f"{formatting.METRIC_NAMES[metric]} with the full prompt, 95 % interval",
            formatting.score_with_interval(metric, prompt.full),
        ),
        ("with the query alone", formatting.score_with_interval(metric, prompt.base)),
        (
            "difference in points",
            f"{formatting.difference_with_interval(metric, prompt.difference)}, p {formatting.p_value(prompt.p_value)}",
        ),
        (
            f"smallest difference that {estimate.rows} rows show",
            formatting.unsigned_difference(metric, prompt.smallest),
        ),
        (
            "prompt tokens before and after",
            f"{formatting.mean(estimate.tokens_before)} and {formatting.mean(estimate.tokens_after)}; of the former, "
            f"{formatting.count(estimate.kept_tokens)} are in every prompt",
        ),
        (
            "time to train all stages here",
            "not known without written answers"
            if estimate.training_seconds is None
            else formatting.duration(estimate.training_seconds),
        ),
        ("time to answer the held-out rows as all arms", formatting.duration(estimate.answer_seconds)),
    ]
    if estimate.has_prices:
        rows += [
            ("pays from", _queries(estimate.pays_from)),
            ("pays from, if the server keeps the beginning of prompts", _queries(estimate.pays_from_if_kept)),
        ]
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    out.print(table)
    if estimate.uncovered:
        named = ", ".join(formatting.shorten(entry, 40) for entry in estimate.uncovered[:_MAX_NAMED])
        more = len(estimate.uncovered) - _MAX_NAMED
        out.print(
            Text(
                "No training row mentions these entries of the template, so that no adapter can learn them: "
                f"{named}{f' and {more} more' if more > 0 else ''}",
                style="yellow",
            )
        )


def _queries(count: int | None) -> str:
    return "never" if count is None else f"{formatting.count(count)} {'query' if count == 1 else 'queries'}"
