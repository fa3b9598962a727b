"""Plots: scales, ticks, and the positions of marks, which match the figures and lie inside the picture."""

from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from promptintern.report import plots, svg
from promptintern.report.build import build_report
from promptintern.report.html import NARROW, WIDE
from promptintern_api.metrics import Metric

from tests.unit.report.figures import facts, losses, stage

EM = Metric.EXACT_MATCH


@given(st.floats(1e-6, 1e9))
@settings(max_examples=60)
def test_an_axis_holds_its_largest_value_and_little_more(largest: float) -> None:
    top = svg.nice_top(largest)
    assert largest <= top * (1 + 1e-9)
    assert top <= 2 * largest * (1 + 1e-9)
    values = svg.ticks(top)
    assert values[0] == 0
    assert values[-1] == pytest.approx(top)
    # Round steps: a whole number of halves or of fives in the leading digit.
    step = values[1]
    mantissa = float(f"{step:.6e}".split("e")[0])
    assert (mantissa * 2) % 1 == pytest.approx(0, abs=1e-6)


def test_an_axis_of_nothing_and_an_axis_with_a_limit() -> None:
    assert svg.nice_top(0) == 1
    assert svg.nice_top(0.97, limit=1.0) == 1.0
    assert svg.ticks(1.0) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_elements_escape_text_and_attributes() -> None:
    drawn = svg.element("text", svg.label("<b>&", 0, 0), class_='a"b')
    assert "&lt;b&gt;&amp;" in drawn
    assert "a&#34;b" in drawn


def _attributes(picture: Markup, kind: str, style: str) -> list[dict[str, str]]:
    root = ElementTree.fromstring(picture)
    return [e.attrib for e in root.iter(kind) if style in e.attrib.get("class", "")]


REPORT = build_report(facts())
DRAWINGS: dict[str, Callable[..., Markup]] = {
    "arms": lambda **size: plots.arms_plot(REPORT, EM, **size),
    "tokens": lambda **size: plots.tokens_plot(REPORT.arms, **size),
    "stages": lambda **size: plots.stages_plot(REPORT.stages, EM, **size),
    "many stages": lambda **size: plots.stages_plot([stage(i, count=64) for i in range(64)], EM, **size),
    "one stage": lambda **size: plots.stages_plot([stage(0, count=1)], EM, **size),
    "loss": lambda **size: plots.loss_plot(REPORT.loss, **size),
    "one step": lambda **size: plots.loss_plot(
        build_report(facts(rows=5).model_copy(update={"loss": losses([stage(0)], direct=False)[:1]})).loss, **size
    ),
}


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", DRAWINGS)
def test_everything_lies_inside_the_picture(name: str, width: int) -> None:
    root = ElementTree.fromstring(DRAWINGS[name](width=width, key="k"))
    _, _, right, bottom = map(float, root.attrib["viewBox"].split())
    assert right == width
    assert root.find("title") is not None
    for element in root.iter():
        for key, limit in (("x", right), ("cx", right), ("x1", right), ("x2", right), ("y", bottom), ("cy", bottom)):
            if key in element.attrib:
                assert 0 <= float(element.attrib[key]) <= limit
        if element.tag == "rect":
            assert float(element.attrib["y"]) + float(element.attrib["height"]) <= bottom + 0.01
        if element.tag == "text":
            # CHARACTER_WIDTH bounds the width of a character, and so the end of the text.
            reach = (
                len(element.text or "")
                * svg.CHARACTER_WIDTH
                * {"start": 1, "middle": 0.5, "end": 0}[element.attrib["text-anchor"]]
            )
            assert float(element.attrib["x"]) + reach <= right + 8


def test_marks_stand_at_their_figures() -> None:
    drawn = plots.arms_plot(REPORT, EM, width=WIDE, key="k")
    (full,) = _attributes(drawn, "rect", "mark full")
    (result,) = _attributes(drawn, "circle", "mark result")
    (reference,) = _attributes(drawn, "line", "reference")
    zero, *_, end = sorted(float(line["x1"]) for line in _attributes(drawn, "line", "grid"))

    def share(x: float) -> float:
        return (x - zero) / (end - zero)

    assert share(float(result["cx"])) == pytest.approx(0.97, abs=1e-3)
    assert share(float(full["x"]) + float(full["width"]) / 2) == pytest.approx(0.965, abs=1e-3)
    assert share(float(reference["x1"])) == pytest.approx(0.965, abs=1e-3)
    low, high = sorted(float(line["x1"]) for line in _attributes(drawn, "line", "whisker result"))[::2][:2]
    wilson = REPORT.arms[1].figure(Metric.EXACT_MATCH)
    assert (share(low), share(high)) == pytest.approx((wilson.low, wilson.high), abs=1e-3)


def test_bars_are_as_long_as_their_tokens() -> None:
    drawn = plots.tokens_plot(REPORT.arms[:2], width=WIDE, key="k")
    full, result = (float(bar["width"]) for bar in _attributes(drawn, "rect", "bar"))
    assert full == WIDE
    means = [arm.prompt_tokens.mean for arm in REPORT.arms]
    assert result / full == pytest.approx(means[1] / means[0], abs=1e-3)


def test_a_failed_stage_has_a_mark_of_its_own_shape() -> None:
    stages = [stage(0), stage(1, gate="failed")]
    drawn = plots.stages_plot(stages, EM, width=WIDE, key="k")
    assert len(_attributes(drawn, "path", "mark failed")) == 1
    assert len(_attributes(drawn, "circle", "mark result")) == 1
    assert "stage 2: 83.0 tokens, 90.0 % exact match, failed the gate" in drawn


def test_arms_differ_in_shape_and_direct_is_dashed() -> None:
    assert len({plots.MARKERS[name] for name in ("FullPrompt", "QueryOnly", "Direct", "Base")}) == 4
    assert len(_attributes(plots.loss_plot(REPORT.loss, width=WIDE, key="k"), "path", "dashed")) == 1
