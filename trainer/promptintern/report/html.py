"""report.html: one file that a manager can open anywhere, without network or scripts."""

from dataclasses import dataclass
from functools import cache, partial

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from promptintern_api.evaluation import Metric
from promptintern_api.training_status import TimeShares

from promptintern.report import plots, words
from promptintern.report.facts import FULL_PROMPT
from promptintern.report.schema import Report
from promptintern.stage_record import Throughput

WIDE, NARROW = 760, 342
"""Widths in pixels of each plot's two drawings; the style sheet shows the one that fits."""
OPEN_EXAMPLES = 3
"""Examples that stand open; the rest unfold."""
LONGEST_TEXT = 1200
"""Characters of a query or an answer that are shown."""
_OUTCOMES = {
    "Internalized": ("✓", "good", "Internalized"),
    "Inconclusive": ("~", "open", "Inconclusive"),
    "NotInternalized": ("✕", "bad", "Not internalized"),
    "StoppedByGate": ("■", "open", "Stopped by the gate"),
}
_READINGS = {"better": "better", "worse": "worse", "undecided": "undecided"}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot in both widths."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """One of the figures under the headline."""

    name: str
    value: str
    beside: str


def render_html(report: Report) -> str:
    """The page, as text to be stored in UTF-8. The same report gives the same bytes."""
    symbol, tone, name = _OUTCOMES[report.verdict.outcome]
    return _template().render(
        report=report,
        outcome={"symbol": symbol, "tone": tone, "name": name},
        key_figures=key_figures(report),
        plots=_plots(report),
        throughputs=_throughputs(report),
        phases=_phases(report),
        readings=_READINGS,
        metric_names=words.METRIC_NAMES,
        open_examples=OPEN_EXAMPLES,
        BLEU=Metric.BLEU,
    )


def key_figures(report: Report) -> list[KeyFigure]:
    """What a manager wants to read: score, tokens, latency and cost of the result beside the full prompt."""
    full = report.arm(FULL_PROMPT)
    result = report.arm(report.verdict.arm) if report.verdict.arm else None
    savings = report.savings
    if full is None or result is None or savings is None:
        return []
    metric = report.verdict.metric
    found = [
        KeyFigure(
            name=words.capital(words.METRIC_NAMES[metric]),
            value=words.score(metric, result.figure(metric).value),
            beside=f"full prompt: {words.score(metric, full.figure(metric).value)}",
        ),
        KeyFigure(
            name="Prompt tokens per query",
            value=words.tokens(result.prompt_tokens.mean),
            beside=f"instead of {words.tokens(full.prompt_tokens.mean)}{_fewer(savings.prompt_tokens)}",
        ),
    ]
    if full.latency and result.latency:
        found.append(
            KeyFigure(
                name="Latency of one query",
                value=words.seconds(result.latency.median_seconds),
                beside=f"instead of {words.seconds(full.latency.median_seconds)}",
            )
        )
    if report.prices and full.cost_per_thousand is not None and result.cost_per_thousand is not None:
        found.append(
            KeyFigure(
                name="Cost of 1,000 queries",
                value=words.money(result.cost_per_thousand, report.prices.currency),
                beside=f"instead of {words.money(full.cost_per_thousand, report.prices.currency)}",
            )
        )
    return found


def _fewer(saved: float) -> str:
    return f", {words.percent(saved)} fewer" if saved > 0 else ""


def _throughputs(report: Report) -> dict[str, Throughput]:
    """The throughput of every training that was timed, by the training's name."""
    trainings = {f"Stage {stage.index + 1}": stage.throughput for stage in report.stages}
    trainings |= {"Direct": report.direct.throughput} if report.direct else {}
    return {name: throughput for name, throughput in trainings.items() if throughput.time_shares}


def _phases(report: Report) -> list[str]:
    """The phases of a step that some training spent time on, in their order within a step."""
    shares = [throughput.time_shares for throughput in _throughputs(report).values()]
    return [phase for phase in TimeShares.model_fields if any(getattr(share, phase) for share in shares)]


def _plots(report: Report) -> dict[str, Plot]:
    found = {
        f"arms-{metric.value.lower()}": _both(partial(plots.arms_plot, report, metric), f"arms-{metric.value.lower()}")
        for metric in report.metrics
    }
    sent = [arm for name in (FULL_PROMPT, report.verdict.arm) if name and (arm := report.arm(name))]
    found["tokens"] = _both(partial(plots.tokens_plot, sent), "tokens")
    if report.stages:
        found["stages"] = _both(partial(plots.stages_plot, report.stages, report.metrics[0]), "stages")
    if report.loss:
        found["loss"] = _both(partial(plots.loss_plot, report.loss), "loss")
    return found


def _both(draw: "partial[Markup]", key: str) -> Plot:
    return Plot(wide=draw(width=WIDE, key=f"{key}-wide"), narrow=draw(width=NARROW, key=f"{key}-narrow"))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("promptintern.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=lambda value, metric: words.score(metric, value),
        difference=lambda value, metric: words.difference(metric, value, unit=False),
        percent=words.percent,
        tokens=words.tokens,
        count=words.count,
        seconds=words.seconds,
        duration=words.duration,
        ratio=words.ratio,
        plain=words.plain,
        money=words.money,
        track=plots.track_name,
        glyph=plots.glyph,
        capital=words.capital,
        whole=words.unbroken,
        cut=lambda text: words.shorten(text, LONGEST_TEXT),
    )
    return environment.get_template("report.html.j2")
