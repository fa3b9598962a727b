"""report.html in headless Chromium, at 390 and 1280 px, light and dark: no errors, no requests, all content visible."""

import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from promptintern.report.build import build_report
from promptintern.report.html import render_comparison, render_html

from tests.integration.report.browser import Page, chromium, find_chromium
from tests.unit.report.figures import BOTH, facts, stage

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no chromium or google-chrome on PATH, so report.html is not opened in a browser"
)

LONG = "x" * 3000
RUNS = {
    "internalized": facts(metrics=BOTH),
    "stopped": facts(stopped_at=2, kept=1, stages=[stage(0), stage(1), stage(2, score=0.6, gate="failed")]),
    "nothing": facts(stopped_at=0, kept=None, result=None, stages=[stage(0, score=0.5, gate="failed")]),
    "many stages": facts(stages=[stage(i, count=24) for i in range(24)], kept=23),
    "hostile": facts(result=0.5, warnings=["<script>document.title = 'taken'</script>", LONG]),
}
PLOTS = {
    "internalized": {"arms-exactmatch", "arms-bleu", "tokens", "stages", "loss"},
    "stopped": {"arms-exactmatch", "tokens", "stages", "loss"},
    "nothing": {"arms-exactmatch", "tokens", "stages", "loss"},
    "many stages": {"arms-exactmatch", "tokens", "stages", "loss"},
    "hostile": {"arms-exactmatch", "tokens", "stages", "loss"},
}

BOXES = """
[...document.querySelectorAll('svg[role=img]')].map(svg => {
  const box = svg.getBoundingClientRect(), style = getComputedStyle(svg);
  return {key: svg.getAttribute('aria-labelledby').split(' ')[0].replace(/-(wide|narrow)-title$/, ''),
          left: box.left, right: box.right, width: box.width, height: box.height,
          shown: box.width > 0 && style.visibility === 'visible' && +style.opacity === 1};
}).filter(box => box.shown)
"""
TEXT_SIZES = """
[...document.querySelectorAll('svg[role=img] text')].filter(t => t.getBoundingClientRect().width > 0)
  .map(t => parseFloat(getComputedStyle(t).fontSize) * t.getCTM().a)
"""
# Elements that extend beyond the page and are not in a scrolling container.
OVERFLOWING_ELEMENTS = """
[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg')
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map(e => e.outerHTML.slice(0, 120))
"""
CLIPPED_TEXTS = """
[...document.querySelectorAll('svg[role=img]')].filter(s => s.getBoundingClientRect().width > 0).flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => {
    const box = t.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
  }).map(t => t.textContent);
})
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    written = {}
    for name, run in RUNS.items():
        if name == "hostile":
            texts = [f"{row.id} <script>alert(1)</script>{LONG}" for row in run.rows]
            rows = [row.model_copy(update={"query": text}) for row, text in zip(run.rows, texts, strict=True)]
            run = run.model_copy(update={"rows": rows})  # noqa: PLW2901
        written[name] = folder / f"{name.replace(' ', '-')}.html"
        written[name].write_text(render_html(build_report(run)), encoding="utf-8")
    written["comparison"] = folder / "comparison.html"
    reports = [build_report(run) for run in RUNS.values()]
    written["comparison"].write_text(render_comparison(reports), encoding="utf-8")
    return written


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", RUNS)
def test_report_in_a_browser(page: Page, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    page.open(pages[name], width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")

    assert page.console_messages() == []
    assert page.requests() == [pages[name].as_uri()]

    heading = page.evaluate("JSON.parse(JSON.stringify(document.querySelector('h1').getBoundingClientRect()))")
    assert page.evaluate("document.querySelector('h1').innerText").strip()
    assert heading["top"] < 900, "the verdict is visible without scrolling"
    assert 0 <= heading["left"] < heading["right"] <= width
    assert heading["height"] > 20

    boxes: list[dict[str, Any]] = page.evaluate(BOXES)
    assert {box["key"] for box in boxes} == PLOTS[name]
    assert len(boxes) == len(PLOTS[name]), "each plot is shown once, in one of its widths"
    for box in boxes:
        assert 0 <= box["left"] < box["right"] <= width
        assert box["width"] > 0.75 * min(width, 848) - 40
        assert box["height"] > 40
    assert min(page.evaluate(TEXT_SIZES)) >= 10, "text in plots stays readable"
    assert page.evaluate(CLIPPED_TEXTS) == []

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING_ELEMENTS) == []

    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")) / 3
    assert lightness > 200 if scheme == "light" else lightness < 60


def test_hostile_text_does_nothing(page: Page, pages: dict[str, Path]) -> None:
    page.open(pages["hostile"], width=1280, scheme="light")
    assert page.evaluate("document.scripts.length") == 1, "only ours"
    assert page.evaluate("document.title").startswith("Not internalized: team-a/quickstart")
    assert page.evaluate("document.body.innerText").count("<script>alert(1)</script>") >= 3


AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
# Animations and the reader's fonts aside, everything that axe-core rates as serious or critical counts.
VIOLATIONS = """
axe.run(document, {resultTypes: ['violations']}).then(result => result.violations
  .filter(v => ['serious', 'critical'].includes(v.impact))
  .map(v => `${v.id}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | ')}`))
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", [*RUNS, "comparison"])
def test_axe_finds_nothing_serious(page: Page, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    page.open(pages[name], width=width, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.evaluate(f"{AXE}; null")
    assert page.evaluate(VIOLATIONS) == []


def test_axe_would_find_something(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><img src='data:,'><p style='color: #ddd; background: #fff'>pale</p></body></html>")
    page.open(bad, width=390, scheme="light")
    page.evaluate(f"{AXE}; null")
    found = " ".join(page.evaluate(VIOLATIONS))
    assert all(rule in found for rule in ("image-alt", "color-contrast", "html-has-lang"))


REACHABLE = """
[...document.querySelectorAll('a[href], input, summary, [tabindex]')].filter(e => e.offsetParent
  && (e.tagName === 'SUMMARY' || !e.closest('details:not([open])'))).length
"""


def press(page: Page, key: str) -> None:
    """Press a key as a keyboard does."""
    text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text if kind == "keyDown" else "",
                  windowsVirtualKeyCode={"Tab": 9, "Enter": 13}.get(key, ord(key[0])))  # fmt: skip


def test_everything_is_reached_by_the_keyboard_alone(page: Page, pages: dict[str, Path]) -> None:
    page.open(pages["internalized"], width=1280, scheme="light")
    expected = page.evaluate(REACHABLE)
    reached = []
    for _ in range(expected):
        press(page, "Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML.slice(0, 80)"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"the focus is not visible at {reached[-1]}"
    assert len(set(reached)) == len(reached) == expected
    page.evaluate("document.querySelector('summary').focus()")
    press(page, "Enter")
    assert page.evaluate("document.querySelector('details').open")


def test_a_reader_types_a_monthly_volume(page: Page, pages: dict[str, Path]) -> None:
    page.open(pages["internalized"], width=390, scheme="light")
    before = page.evaluate("document.querySelector('.monthly').innerText")
    assert "queries a month, it saves 114,000,000 prompt tokens" in " ".join(before.split())
    page.evaluate("document.getElementById('volume').select()")
    page.evaluate("document.getElementById('volume').focus()")
    for key in "2000":
        press(page, key)
    after = " ".join(page.evaluate("document.querySelector('.monthly').innerText").split())
    assert "it saves 228,000 prompt tokens" in after
    page.evaluate("document.getElementById('volume').value = ''")
    page.evaluate("document.getElementById('volume').dispatchEvent(new Event('input'))")
    assert "it saves 0 prompt tokens" in " ".join(page.evaluate("document.querySelector('.monthly').innerText").split())
    assert page.console_messages() == []


def test_without_scripts_the_page_shows_one_volume(page: Page, pages: dict[str, Path]) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.call("Page.navigate", url=pages["internalized"].as_uri())
        time.sleep(1)
        document = page.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
        node = page.call("DOM.querySelector", nodeId=document, selector="#volume")["nodeId"]
        attributes = page.call("DOM.getAttributes", nodeId=node)["attributes"]
        assert "hidden" in attributes
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_plots_have_names_for_assistive_technology(page: Page, pages: dict[str, Path]) -> None:
    page.open(pages["internalized"], width=390, scheme="light")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    # Chromium calls role=img "image".
    images = [node for node in nodes if node["role"]["value"] in {"image", "img"} and not node["ignored"]]
    names = [node["name"]["value"] for node in images]
    assert len(names) == 5
    assert any(name.startswith("Exact match of every arm with 95 % intervals FullPrompt 96.5 %") for name in names)


def test_the_page_prints_in_the_wide_drawings(page: Page, pages: dict[str, Path]) -> None:
    page.open(pages["internalized"], width=794, scheme="light", media="print")  # A4 at 96 pixels an inch
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert {round(box["width"]) for box in page.evaluate(BOXES)} == {704}, "the wide drawings fill the sheet"
    assert page.call("Page.printToPDF", printBackground=True)["data"]


def test_the_browser_reports_errors_and_requests(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('no'); throw Error('worse')</script>")
    page.open(bad, width=390, scheme="light")
    assert "http://127.0.0.1:9/x.png" in page.requests()
    assert any("no" in message for message in page.console_messages())
    assert any("worse" in message for message in page.console_messages())
