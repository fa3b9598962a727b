"""WCAG 2.2 AA: contrast of text (4.5) and of marks (3) in both colour schemes, from the style sheet itself."""

import re
from importlib.resources import files

import pytest

STYLE = files("promptintern.report").joinpath("templates/style.css.j2").read_text(encoding="utf-8")
LIGHT_BLOCK, DARK_BLOCK = re.findall(r":root \{([^}]*)\}", STYLE)[:2]
MINIMUM_TEXT, MINIMUM_MARK = 4.5, 3.0


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block))


SCHEMES = {"light": colours(LIGHT_BLOCK), "dark": colours(DARK_BLOCK)}
TEXT = [
    *((text, back) for text in ("text", "quiet", "link") for back in ("page", "card")),
    ("good", "good-soft"),
    ("open", "open-soft"),
    ("bad", "bad-soft"),
    ("text", "open-soft"),
    ("good", "card"),
    ("bad", "card"),
    ("text", "chosen"),
    ("quiet", "chosen"),
    ("bad", "chosen"),
]
MARKS = [(series, "card") for series in ("result", "full", "direct", "base", "tuned", "compressed", "bad")] + [
    ("result", "grid"),
    ("full", "grid"),
]


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(over: str, under: str, share: float) -> str:
    """``color-mix(in srgb, over share, transparent)`` on ``under``."""
    pairs = [(int(over[i : i + 2], 16), int(under[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02x}" for a, b in pairs)


def colour(scheme: str, name: str) -> str:
    if name == "chosen":
        assert "tr.chosen > * { background: color-mix(in srgb, var(--result) 8%, transparent); }" in STYLE
        return mixed(SCHEMES[scheme]["result"], SCHEMES[scheme]["card"], 0.08)
    return SCHEMES[scheme][name]


def test_contrast_is_computed_as_published() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_both_schemes_name_the_same_colours() -> None:
    assert SCHEMES["light"].keys() == SCHEMES["dark"].keys()
    assert set(re.findall(r"var\(--([\w-]+)\)", STYLE)) == SCHEMES["light"].keys()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("front", "back"), TEXT)
def test_text_can_be_read(scheme: str, front: str, back: str) -> None:
    assert contrast(colour(scheme, front), colour(scheme, back)) >= MINIMUM_TEXT


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("front", "back"), MARKS)
def test_marks_can_be_seen(scheme: str, front: str, back: str) -> None:
    assert contrast(colour(scheme, front), colour(scheme, back)) >= MINIMUM_MARK
