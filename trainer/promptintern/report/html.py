"""Renders report.html, a self-contained page without a network, whose one script is not needed to read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from promptintern_api.metrics import Metric
from promptintern_api.training import TeacherLoss, TeacherModel
from promptintern_api.training_status import TimeShares, VerdictOutcome

from promptintern.report import formatting, plots
from promptintern.report.facts import FULL_PROMPT, RetentionFacts
from promptintern.report.markdown import compare_cells
from promptintern.report.monthly import monthly_savings, script, script_source
from promptintern.report.schema import ArmReport, Report
from promptintern.sandbox.verdict import Verdict
from promptintern.stage_record import Throughput

WIDE, NARROW = 760, 342
"""The widths, in pixels, at which each plot is drawn. The style sheet shows the drawing that fits the window."""
NUM_OPEN_EXAMPLES = 3
"""The number of gained rows, and the number of lost rows, that the page shows until a reader unfolds the others."""
_OUTCOMES = {
    VerdictOutcome.INTERNALIZED: ("✓", "good", "Internalized", "Ship it."),
    VerdictOutcome.INCONCLUSIVE: ("~", "open", "Inconclusive", "Do not ship it before more rows have decided."),
    VerdictOutcome.NOT_INTERNALIZED: ("✕", "bad", "Not internalized", "Do not ship it."),
    VerdictOutcome.STOPPED_BY_GATE: ("■", "open", "Stopped by the gate", "Do not ship the query alone."),
}
_READINGS = {"better": "better", "worse": "worse", "undecided": "undecided"}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot of the report, drawn once for wide windows and once for narrow windows."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """A figure of the result that the page shows below its headline, with the full prompt's figure for comparison."""

    name: str
    value: str
    comparison: str


def render_html(report: Report) -> str:
    """Return the report as an HTML page, which must be stored in UTF-8. The same report always gives the same page."""
    symbol, tone, name, advice = _OUTCOMES[report.verdict.outcome]
    monthly = monthly_savings(report)
    volume_script = Markup(script()) if monthly else None
    return _template().render(
        report=report,
        outcome={"symbol": symbol, "tone": tone, "name": name, "advice": advice},
        monthly=monthly,
        volume_script=volume_script,
        script_source=Markup(script_source(volume_script)) if volume_script else None,
        key_figures=key_figures(report),
        plots=_plots(report),
        throughputs=_throughputs(report),
        activities=_activities(report),
        teacher=_describe_teacher(report),
        retention=_describe_retention(report.retention),
        kept_arms=_kept_arms(report),
        readings=_READINGS,
        metric_names=formatting.METRIC_NAMES,
        verdicts=[each for each in Verdict if any(each in (arm.programs or {}) for arm in report.arms)],
        open_examples=NUM_OPEN_EXAMPLES,
        BLEU=Metric.BLEU,
        PASS_AT_1=Metric.PASS_AT_1,
    )


def render_comparison(reports: Sequence[Report]) -> str:
    """Return a page with one table of several runs."""
    heads, rows = compare_cells(reports)
    return _template("compare.html.j2").render(heads=heads, rows=rows, count=len(reports))


def _describe_retention(retention: RetentionFacts | None) -> str:
    """Return sentences that say how far the trained model behaves as the base model under another prompt."""
    if retention is None:
        return ""
    limit = "" if retention.max_changed is None else f" (limit {formatting.percent(retention.max_changed)})"
    return (
        f"{formatting.count(retention.changed)} of {formatting.count(retention.prompts)} answers changed{limit}. "
        f"The divergence from the base model is {formatting.number(retention.divergence)} nats per answer token "
        f"(limit {formatting.number(retention.max_divergence)}). "
        f"The check {'passed' if retention.passed else 'failed'}."
    )


def _describe_teacher(report: Report) -> str:
    """Return sentences that say who taught and with which loss; an empty string if there was no teacher."""
    teacher = report.teacher
    if teacher is None:
        return ""
    who = "The base model with the full prompt answered the queries."
    if teacher.model is not TeacherModel.BASE:
        scores = teacher.top_k is not None and report.data.train is not None
        asked = report.data.queries is not None or report.data.written is not None
        work = ["answered the queries"] * asked + ["scored the written answers if it was a stage"] * scores
        who = f"The table of the stages names the teacher of each stage. The teacher {' and '.join(work)}."
    loss = {
        TeacherLoss.FORWARD_KL: "The loss is the forward Kullback-Leibler divergence",
        TeacherLoss.JENSEN_SHANNON: "The loss is the Jensen-Shannon divergence",
        TeacherLoss.ANSWERS: "The loss is the cross-entropy of the teacher's answers",
    }[teacher.loss]
    outcomes = f" over its {teacher.top_k} most likely tokens and all other tokens together" if teacher.top_k else ""
    weight = f", with weight {formatting.number(teacher.weight)}" if teacher.weight != 1 else ""
    speed = ""
    if teacher.answer_tokens and teacher.answer_seconds >= 0.001:
        per_second = formatting.count(round(teacher.answer_tokens / teacher.answer_seconds))
        speed = (
            f" It took {formatting.duration(teacher.answer_seconds)} to generate "
            f"{formatting.count(teacher.answer_tokens)} answer tokens ({per_second} per second)"
        )
        scored = f", and {formatting.duration(teacher.score_seconds)} to compute their probabilities"
        speed += (scored if teacher.top_k else "") + "."
    drawn = ""
    if teacher.samples and teacher.temperature is not None:
        drawn = (
            f" Of {teacher.samples} answers to each query, drawn at temperature "
            f"{formatting.number(teacher.temperature)}, the most frequent one is learned."
        )
    return f"{who}{drawn} {loss}{outcomes}{weight}.{speed}"


def _kept_arms(report: Report) -> list[ArmReport]:
    """Return the arms whose prompts begin alike, and the result; nothing if no arm has such prompts."""
    kept = [arm for arm in report.arms if arm.kept_latency is not None]
    result = report.arm(report.verdict.arm) if report.verdict.arm else None
    return [*kept, result] if kept and result is not None else kept


def key_figures(report: Report) -> list[KeyFigure]:
    """Return the score, prompt tokens, latency and cost of the result, compared with the full prompt."""
    full = report.arm(FULL_PROMPT)
    result = report.arm(report.verdict.arm) if report.verdict.arm else None
    savings = report.savings
    if full is None or result is None or savings is None:
        return []
    metric = report.verdict.metric
    figures = [
        KeyFigure(
            name=formatting.capitalized(formatting.METRIC_NAMES[metric]),
            value=formatting.score(metric, result.figure(metric).value),
            comparison=f"full prompt: {formatting.score(metric, full.figure(metric).value)}",
        ),
        KeyFigure(
            name="Prompt tokens per query",
            value=formatting.mean(result.prompt_tokens.mean),
            comparison=f"instead of {formatting.mean(full.prompt_tokens.mean)}{_fewer_tokens(savings.prompt_tokens)}",
        ),
    ]
    if full.latency and result.latency:
        figures.append(
            KeyFigure(
                name="Latency of one query",
                value=formatting.seconds(result.latency.median_seconds),
                comparison=f"instead of {formatting.seconds(full.latency.median_seconds)}",
            )
        )
    if report.prices and full.cost_per_thousand is not None and result.cost_per_thousand is not None:
        figures.append(
            KeyFigure(
                name="Cost of 1,000 queries",
                value=formatting.money(result.cost_per_thousand, report.prices.currency),
                comparison=f"instead of {formatting.money(full.cost_per_thousand, report.prices.currency)}",
            )
        )
    return figures


def _fewer_tokens(saved: float) -> str:
    return f" ({formatting.percent(saved)} fewer)" if saved > 0 else ""


def _throughputs(report: Report) -> dict[str, Throughput]:
    """Return the throughput of every stage and trained arm, by name, if the activities of their steps were timed."""
    trainings = {f"Stage {stage.index + 1}": stage.throughput for stage in report.stages}
    for name, record in (("Direct", report.direct), ("FullPromptTuned", report.tuned)):
        trainings |= {name: record.throughput} if record else {}
    return {name: throughput for name, throughput in trainings.items() if throughput.time_shares}


def _activities(report: Report) -> list[str]:
    """Return the activities that took time in any stage or in Direct, in their order within an optimizer step."""
    shares = [throughput.time_shares for throughput in _throughputs(report).values()]
    return [activity for activity in TimeShares.model_fields if any(getattr(share, activity) for share in shares)]


def _plots(report: Report) -> dict[str, Plot]:
    drawn_plots = {
        f"arms-{metric.value.lower()}": _draw(partial(plots.arms_plot, report, metric), f"arms-{metric.value.lower()}")
        for metric in report.metrics
    }
    compared_arms = [arm for name in (FULL_PROMPT, report.verdict.arm) if name and (arm := report.arm(name))]
    drawn_plots["tokens"] = _draw(partial(plots.tokens_plot, compared_arms), "tokens")
    if report.stages:
        drawn_plots["stages"] = _draw(partial(plots.stages_plot, report.stages, report.metrics[0]), "stages")
    if report.loss:
        drawn_plots["loss"] = _draw(partial(plots.loss_plot, report.loss), "loss")
    return drawn_plots


def _draw(draw: "partial[Markup]", key: str) -> Plot:
    return Plot(wide=draw(width=WIDE, key=f"{key}-wide"), narrow=draw(width=NARROW, key=f"{key}-narrow"))


def _visible(value: object) -> object:
    """Return text from outside with its control characters visible; leave markup and other values as they are."""
    return formatting.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _template(name: str = "report.html.j2") -> Template:
    environment = Environment(
        loader=PackageLoader("promptintern.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=lambda value, metric: formatting.score(metric, value),
        difference=lambda value, metric: formatting.difference(metric, value, unit=False),
        unsigned_difference=lambda value, metric: formatting.unsigned_difference(metric, value),
        p_value=formatting.p_value,
        percent=formatting.percent,
        mean=formatting.mean,
        count=formatting.count,
        seconds=formatting.seconds,
        duration=formatting.duration,
        shares=formatting.shares,
        ratio=formatting.ratio,
        number=formatting.number,
        money=formatting.money,
        size=formatting.size,
        shorten=lambda text: formatting.shorten(text, formatting.MAX_TEXT_LENGTH),
        track_name=plots.track_name,
        glyph=plots.glyph,
        capitalized=formatting.capitalized,
        keep_together=formatting.keep_together,
    )
    return environment.get_template(name)
