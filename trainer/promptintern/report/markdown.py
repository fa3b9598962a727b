"""Writes the report as Markdown, for pull requests and chats, and compares several reports in one table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from promptintern_api.metrics import Metric

from promptintern.report import formatting
from promptintern.report.facts import FULL_PROMPT
from promptintern.report.schema import ArmReport, Comparison, Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&@-])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
_MAX_TEXT = 500
_MAX_WARNINGS = 20


def escape(text: str) -> str:
    """Return ``text`` as Markdown that shows it and does nothing else, on one line and of bounded length.

    Names, queries and warnings may hold anything, such as HTML, links, mentions or marks that turn text around.
    """
    return _SPECIAL.sub(r"\\\1", formatting.shorten(_CONTROL.sub(" ", text), _MAX_TEXT))


def render_markdown(report: Report) -> str:
    """Return the report as Markdown: the verdict, the arms, the comparisons and the warnings."""
    verdict, metrics = report.verdict, report.metrics
    has_costs = any(arm.cost_per_thousand is not None for arm in report.arms)
    currency = escape(report.prices.currency) if report.prices else ""
    heads = [
        "arm",
        *(f"{formatting.METRIC_NAMES[metric]} (95 % interval)" for metric in metrics),
        "prompt tokens",
        *([f"cost of 1,000 ({currency})"] if has_costs else []),
    ]
    arms = [
        [escape(arm.name), *(formatting.score_with_interval(metric, arm.figure(metric)) for metric in metrics)]
        + [formatting.mean(arm.prompt_tokens.mean)]
        + ([formatting.money(arm.cost_per_thousand or 0.0, "")] if has_costs else [])
        for arm in report.arms
    ]
    tests = [_comparison_cells(comparison) for comparison in report.comparisons]
    lines = [
        f"# {escape(report.job.namespace)}/{escape(report.job.name)}: {verdict.outcome}",
        "",
        f"**{escape(verdict.headline)}**",
        "",
        *(f"- {escape(reason)}" for reason in verdict.reasons),
        "",
        f"{formatting.count(report.arms[0].rows)} held-out rows.",
        "",
        *_table(heads, arms),
        "",
        *_table(["arms", "metric", "difference in points (95 % interval)", "p, corrected", "conclusion"], tests),
    ]
    if report.warnings:
        lines += ["", "## Before you rely on this result", ""]
        lines += [f"- {escape(warning)}" for warning in report.warnings[:_MAX_WARNINGS]]
    return "\n".join([*lines, ""])


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in nothing but their seeds, as far as their reports tell."""

    reports: Sequence[Report]

    @property
    def name(self) -> str:
        """The name of the first run, and the number of runs."""
        job = self.reports[0].job
        return f"{job.namespace}/{job.name}" + (f" and {len(self.reports) - 1} more" if len(self.reports) > 1 else "")


def group_by_seed(reports: Iterable[Report]) -> list[Group]:
    """Return the runs in groups that share everything that matters but the seeds, in the order of their first runs."""
    groups: dict[object, list[Report]] = {}
    for report in reports:
        data, job = report.data, report.job
        files = tuple(source.digest if source else None for source in (data.train, data.queries, data.eval))
        schedule = tuple((stage.requested_rate, stage.shots, stage.epochs) for stage in report.stages)
        settings = tuple(sorted(job.settings.items()))
        key = (
            job.model_digest or job.model_uri,
            files,
            schedule,
            settings,
            job.lora.model_dump_json(),
            job.learning_rate,
            tuple(report.metrics),
        )
        groups.setdefault(key, []).append(report)
    return [Group(reports=each) for each in groups.values()]


def compare_cells(reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of a table of several runs, as plain text.

    Runs that differ only in their seeds are one row, with the mean score of each arm and its spread between seeds.
    """
    names = list(dict.fromkeys(arm.name for report in reports for arm in report.arms))
    heads = ["run", "verdict", "metric", *names, "prompt tokens", "held-out rows"]
    return heads, [_plain_cells(group, names) for group in group_by_seed(reports)]


def compare_markdown(reports: Sequence[Report]) -> str:
    """Return the table of `compare_cells` as Markdown."""
    heads, rows = compare_cells(reports)
    return "\n".join([*_table([escape(head) for head in heads], [[escape(cell) for cell in row] for row in rows]), ""])


def _plain_cells(group: Group, names: Sequence[str]) -> list[str]:
    first, metric = group.reports[0], group.reports[0].metrics[0]
    outcomes = [str(report.verdict.outcome) for report in group.reports]
    verdict = outcomes[0] if len(set(outcomes)) == 1 else ", ".join(outcomes)
    scores = [_spread(metric, [arm for report in group.reports if (arm := report.arm(name))]) for name in names]
    result = first.arm(first.verdict.arm) if first.verdict.arm else None
    full = first.arm(FULL_PROMPT)
    before = formatting.mean(full.prompt_tokens.mean) if full else "?"
    tokens = f"{before} to {formatting.mean(result.prompt_tokens.mean)}" if result else before
    rows = formatting.count(first.arms[0].rows)
    return [group.name, verdict, formatting.METRIC_NAMES[metric], *scores, tokens, rows]


def _spread(metric: Metric, arms: Sequence[ArmReport]) -> str:
    """Return the score of an arm with its interval, or the mean over seeds with the smallest and the largest score."""
    figures = [arm.figure(metric) for arm in arms]
    if not figures:
        return "–"
    if len(figures) == 1:
        return formatting.score_with_interval(metric, figures[0])
    return formatting.mean_with_spread(metric, figures, label="seeds: ")


def _comparison_cells(comparison: Comparison) -> list[str]:
    metric = comparison.metric
    return [
        f"{escape(comparison.arm)} − {escape(comparison.against)}",
        formatting.METRIC_NAMES[metric],
        formatting.difference_with_interval(metric, comparison.difference),
        escape(formatting.p_value(comparison.corrected_p_value)),
        comparison.reading,
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
