"""Draws the plots of the report (arms, tokens, stages and loss) at a given width in pixels."""

from collections.abc import Callable, Sequence
from itertools import accumulate

from markupsafe import Markup
from promptintern_api.metrics import Metric

from promptintern.report import formatting
from promptintern.report.facts import (
    BASE,
    COMPRESSED_ONLY,
    DIRECT,
    FULL_PROMPT,
    FULL_PROMPT_TUNED,
    KEPT_STAGE,
    QUERY_ONLY,
    TEMPLATE_ONLY,
    LossCurve,
)
from promptintern.report.schema import ArmReport, Report
from promptintern.report.svg import (
    CHARACTER_WIDTH,
    LINE_HEIGHT,
    Anchor,
    Marker,
    Scale,
    element,
    label,
    line,
    marker,
    nice_top,
    path,
    picture,
    ticks,
)
from promptintern.stage_record import StageRecord

MARKERS: dict[str, Marker] = {
    FULL_PROMPT: "square",
    FULL_PROMPT_TUNED: "square",
    QUERY_ONLY: "circle",
    KEPT_STAGE: "circle",
    DIRECT: "diamond",
    TEMPLATE_ONLY: "diamond",
    BASE: "triangle",
}
_SERIES = {
    FULL_PROMPT: "full",
    TEMPLATE_ONLY: "full",
    FULL_PROMPT_TUNED: "tuned",
    DIRECT: "direct",
    BASE: "base",
}
"""The class of an arm's marks in the style sheet, if it is not that of the result."""
STAGE_PANEL_HEIGHT = 120.0
LOSS_PANEL_HEIGHT = 220.0
AXIS_HEIGHT = 26.0
"""The height, in pixels, of the area for the numbers along a horizontal axis."""
AXIS_WIDTH = 52.0
"""The width, in pixels, of the area for the numbers along a vertical axis."""
MIN_LABELLED_COLUMN = 66
"""The width, in pixels, below which a column is too narrow for its labels, so that only some columns have labels."""


def arms_plot(report: Report, metric: Metric, *, width: float, key: str) -> Markup:
    """Draw the score of every arm with its 95 % interval, and a dashed line at the score of FullPrompt."""
    arms = report.arms
    figures = {arm.name: arm.figure(metric) for arm in arms}
    top = nice_top(max(figure.high for figure in figures.values()), limit=metric.largest)
    is_wide = width > 500
    left = max(len(arm.name) for arm in arms) * CHARACTER_WIDTH + 26 if is_wide else 8.0
    row = 40.0 if is_wide else 52.0
    scale = Scale(top=top, start=left, end=width - (64 if is_wide else 10))
    height = row * len(arms) + AXIS_HEIGHT
    marks = [
        *_vertical_grid(scale, height - AXIS_HEIGHT, lambda value: _axis_score(metric, value)),
        line(
            scale.at(figures[FULL_PROMPT].value),
            0,
            scale.at(figures[FULL_PROMPT].value),
            height - AXIS_HEIGHT,
            "reference",
        ),
    ]
    for number, arm in enumerate(arms):
        figure, series = figures[arm.name], series_of(arm.name)
        y = row * number + (row / 2 if is_wide else 36)
        value = formatting.score(metric, figure.value)
        if is_wide:
            marks += [label(arm.name, 0, y + 4), label(value, width, y + 4, anchor="end", class_="label strong")]
        else:
            marks += [
                label(arm.name, 0, y - 16, class_="label halo"),
                label(value, width, y - 16, anchor="end", class_="label strong halo"),
            ]
        low, high = scale.at(max(0.0, figure.low)), scale.at(min(top, figure.high))
        marks += [
            line(low, y, high, y, f"whisker {series}"),
            line(low, y - 5, low, y + 5, f"whisker {series}"),
            line(high, y - 5, high, y + 5, f"whisker {series}"),
            marker(MARKERS.get(arm.name, "circle"), scale.at(figure.value), y, f"mark {series}"),
        ]
    summary = "; ".join(
        f"{name} {formatting.score(metric, figure.value)}, interval {formatting.score(metric, figure.low)} to "
        f"{formatting.score(metric, figure.high)}"
        for name, figure in figures.items()
    )
    return picture(
        *marks,
        width=width,
        height=height,
        key=key,
        title=f"{formatting.capitalized(formatting.METRIC_NAMES[metric])} of every arm with 95 % intervals",
        description=f"{summary}. The dashed line marks {FULL_PROMPT}'s score.",
    )


def tokens_plot(arms: Sequence[ArmReport], *, width: float, key: str) -> Markup:
    """Draw a bar for each arm, which shows the mean number of prompt tokens per query."""
    top = max(1.0, *(arm.prompt_tokens.mean for arm in arms))
    row, bar = 46.0, 18.0
    scale = Scale(top=top, start=0, end=width)
    marks: list[Markup] = []
    for number, arm in enumerate(arms):
        y = row * number
        marks += [
            label(arm.name, 0, y + 13),
            label(formatting.mean(arm.prompt_tokens.mean), width, y + 13, anchor="end", class_="label strong"),
            element("rect", x=0, y=y + 20, width=width, height=bar, rx=3, class_="track"),
            element(
                "rect",
                x=0,
                y=y + 20,
                width=max(3.0, scale.at(arm.prompt_tokens.mean)),
                height=bar,
                rx=3,
                class_=f"bar {series_of(arm.name)}",
            ),
        ]
    return picture(
        *marks,
        width=width,
        height=row * len(arms),
        key=key,
        title="Prompt tokens per query",
        description="Means: "
        + "; ".join(f"{arm.name} {formatting.mean(arm.prompt_tokens.mean)}" for arm in arms)
        + ".",
    )


def stages_plot(stages: Sequence[StageRecord], metric: Metric, *, width: float, key: str) -> Markup:
    """Draw two panels with one column per stage: prompt tokens as bars, and below them scores as a line."""
    left, column = AXIS_WIDTH, (width - AXIS_WIDTH) / max(1, len(stages))
    label_every = max(1, -(-len(stages) * MIN_LABELLED_COLUMN // int(width - left)))
    centres = [left + column * (i + 0.5) for i in range(len(stages))]
    labelled = [i for i, x in enumerate(centres) if i % label_every == 0 and x + MIN_LABELLED_COLUMN / 2 <= width + 0.5]
    tokens_top, gap = LINE_HEIGHT + 16, LINE_HEIGHT + 22
    tokens = Scale(
        top=nice_top(max(stage.prompt_tokens_mean for stage in stages)),
        start=tokens_top + STAGE_PANEL_HEIGHT,
        end=tokens_top,
    )
    marks = [
        label("Prompt tokens per query", 0, 12, class_="label strong"),
        *_horizontal_grid(tokens, left, width, formatting.number, halves=True),
    ]
    bar = min(44.0, column * 0.6)
    for i, stage in enumerate(stages):
        y = tokens.at(stage.prompt_tokens_mean)
        marks.append(
            element(
                "rect", x=centres[i] - bar / 2, y=y, width=bar, height=max(1.5, tokens.start - y), class_="bar result"
            )
        )
        if i in labelled:
            text = formatting.mean(stage.prompt_tokens_mean)
            marks.append(label(text, centres[i], y - 6, anchor="middle", class_="label halo"))
    score_title = tokens.start + gap
    score_top = score_title + LINE_HEIGHT
    marks.append(
        label(
            f"{formatting.capitalized(formatting.METRIC_NAMES[metric])} with the stage's own prompt",
            0,
            score_title,
            class_="label strong",
        )
    )
    scores = Scale(
        top=nice_top(_largest_score(stages), limit=metric.largest),
        start=score_top + STAGE_PANEL_HEIGHT,
        end=score_top + 6,
    )
    marks += _score_panel(stages, metric, labelled, centres, scores, left, width)
    base = scores.start
    for i in labelled:
        marks += [
            label(f"Stage {stages[i].index + 1}", centres[i], base + 20, anchor="middle", class_="label strong"),
            label(
                f"{formatting.percent(stages[i].achieved_rate)} · {stages[i].shots}",
                centres[i],
                base + 20 + LINE_HEIGHT,
                anchor="middle",
                class_="label quiet",
            ),
        ]
    summary = "; ".join(
        f"stage {stage.index + 1}: {formatting.mean(stage.prompt_tokens_mean)} tokens"
        + f", {formatting.named_score(metric, stage.score)}"
        + (", failed the gate" if stage.gate == "failed" else "")
        for stage in stages
    )
    return picture(
        *marks,
        width=width,
        height=base + 20 + LINE_HEIGHT + 8,
        key=key,
        title="Prompt tokens and score over the stages",
        description=f"{summary}. The figures below each stage are its template rate and its number of examples.",
    )


def _largest_score(stages: Sequence[StageRecord]) -> float:
    return max(score for stage in stages for score in (stage.score, stage.full_prompt_score))


def _score_panel(
    stages: Sequence[StageRecord],
    metric: Metric,
    labelled: Sequence[int],
    centres: Sequence[float],
    scale: Scale,
    left: float,
    width: float,
) -> list[Markup]:
    points = [(x, scale.at(stage.score)) for x, stage in zip(centres, stages, strict=True)]
    full_prompt_y = scale.at(stages[0].full_prompt_score)
    marks = [
        *_horizontal_grid(scale, left, width, lambda value: _axis_score(metric, value), halves=True),
        line(left, full_prompt_y, width, full_prompt_y, "reference"),
        path(points, "curve result"),
    ]
    for i, (stage, (x, y)) in enumerate(zip(stages, points, strict=True)):
        failed = stage.gate == "failed"
        marks.append(marker("cross" if failed else "circle", x, y, "mark failed" if failed else "mark result", size=5))
        if i in labelled:
            below = y < scale.end + 16
            text = formatting.score(metric, stage.score)
            marks.append(label(text, x, y + 21 if below else y - 11, anchor="middle", class_="label halo"))
    return marks


def loss_plot(curves: Sequence[LossCurve], *, width: float, key: str) -> Markup:
    """Draw the mean loss per answer token over optimizer steps.

    The stages follow one another, and Direct is a dashed line that begins at step 0."""
    stages = [curve for curve in curves if curve.track.isdecimal()]
    direct = next((curve for curve in curves if curve.track == "direct"), None)
    ends = list(accumulate(curve.points[-1].step for curve in stages))
    starts = [0, *ends[:-1]] if ends else []
    last = max(ends[-1] if ends else 1, direct.points[-1].step if direct else 1)
    left, top = AXIS_WIDTH, LINE_HEIGHT + 8
    across = Scale(top=last, start=left, end=width - 6)
    up = Scale(
        top=nice_top(max(point.loss for curve in curves for point in curve.points)),
        start=top + LOSS_PANEL_HEIGHT,
        end=top,
    )
    marks = [*_horizontal_grid(up, left, width, formatting.number)]
    for number, (start, curve) in enumerate(zip(starts, stages, strict=True)):
        x = across.at(start)
        if number:
            marks.append(line(x, top, x, up.start, "boundary"))
        if across.at(ends[number]) - x > (60 if width > 500 else 14):
            name = track_name(curve.track) if width > 500 else str(int(curve.track) + 1)
            marks.append(label(name, (x + across.at(ends[number])) / 2, 13, anchor="middle", class_="label quiet"))
    if direct:
        marks.append(path([(across.at(p.step), up.at(p.loss)) for p in direct.points], "curve direct dashed"))
    marks += [
        path([(across.at(start + p.step), up.at(p.loss)) for p in curve.points], "curve result")
        for start, curve in zip(starts, stages, strict=True)
    ]
    marks += [
        label("0", left, up.start + 18, class_="label quiet"),
        label("optimizer steps", (left + width) / 2, up.start + 18, anchor="middle", class_="label quiet"),
        label(formatting.count(last), width, up.start + 18, anchor="end", class_="label quiet"),
    ]
    summary = "; ".join(
        f"{track_name(curve.track)} from {curve.points[0].loss:.3g} to {curve.points[-1].loss:.3g}" for curve in curves
    )
    return picture(
        *marks,
        width=width,
        height=up.start + AXIS_HEIGHT,
        key=key,
        title="Training loss over optimizer steps",
        description=f"Mean loss per answer token: {summary}.",
    )


def glyph(arm: str) -> Markup:
    """Draw the mark of ``arm`` at a small size, to be placed before the name of the arm in a table."""
    mark = marker(MARKERS.get(arm, "circle"), 8, 8, f"mark {series_of(arm)}", size=5)
    return element("svg", mark, viewBox="0 0 16 16", width=16, height=16, class_="glyph", aria_hidden="true")


def track_name(track: str) -> str:
    """Return the name by which the report calls the track with this key, such as ``Stage 2`` or ``Direct``."""
    return f"Stage {int(track) + 1}" if track.isdecimal() else {"direct": DIRECT, "tuned": FULL_PROMPT_TUNED}[track]


def series_of(arm: str) -> str:
    """Return the CSS class of the marks that stand for ``arm``."""
    if arm.startswith(COMPRESSED_ONLY):
        return "compressed"
    return _SERIES.get(arm, "result")


def _vertical_grid(scale: Scale, height: float, text: Callable[[float], str]) -> list[Markup]:
    marks = []
    values = ticks(scale.top)
    for number, value in enumerate(values):
        x = scale.at(value)
        anchor: Anchor = "start" if number == 0 else "end" if number == len(values) - 1 else "middle"
        marks += [
            line(x, 0, x, height, "grid"),
            label(text(value), x, height + 18, anchor=anchor, class_="label quiet"),
        ]
    return marks


def _horizontal_grid(
    scale: Scale, left: float, right: float, text: Callable[[float], str], *, halves: bool = False
) -> list[Markup]:
    marks = []
    for value in [0.0, scale.top / 2, scale.top] if halves else ticks(scale.top):
        y = scale.at(value)
        marks += [
            line(left, y, right, y, "grid"),
            label(text(value), left - 8, y + 4, anchor="end", class_="label quiet"),
        ]
    return marks


def _axis_score(metric: Metric, value: float) -> str:
    return f"{formatting.number(100 * value)} %" if metric.is_share else formatting.number(value)
