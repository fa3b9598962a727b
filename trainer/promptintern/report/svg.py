"""The parts of inline SVG plots: texts, lines, markers, scales and axis ticks. A style sheet defines the colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

LINE_HEIGHT = 18.0
"""The height of a line of text, in pixels."""
CHARACTER_WIDTH = 7.2
"""The largest width of a character, in pixels. The space for a label is computed from this width."""

Marker = Literal["circle", "square", "diamond", "triangle", "cross"]
Anchor = Literal["start", "middle", "end"]


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return an SVG element. Texts and attribute values are escaped.

    In attribute names, a trailing underscore is removed (``class_``), and other underscores become hyphens
    (``stroke_width``).
    """
    attribute_text = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value)) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), attribute_text, Markup("").join(children))


def picture(*children: str, width: float, height: float, key: str, title: str, description: str) -> Markup:
    """Return an ``svg`` element with an accessible title and description. ``key`` must be unique in the page."""
    return element(
        "svg",
        element("title", escape(title), id=f"{key}-title"),
        element("desc", escape(description), id=f"{key}-desc"),
        *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


def label(text: str, x: float, y: float, *, anchor: Anchor = "start", class_: str = "label") -> Markup:
    """Return a text element whose baseline is at ``y``. ``anchor`` is the end of the text that lies at ``x``."""
    return element("text", escape(text), x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line from (``x1``, ``y1``) to (``x2``, ``y2``)."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Return a line through ``points``, whose ends are not connected."""
    steps = " ".join(f"{'L' if i else 'M'}{_value(x)} {_value(y)}" for i, (x, y) in enumerate(points))
    return element("path", d=steps, class_=class_)


def marker(shape: Marker, x: float, y: float, class_: str, *, size: float = 6) -> Markup:
    """Return the mark of a data point.

    Each series of data has its own shape, so that readers need no colours to distinguish the series."""
    match shape:
        case "circle":
            return element("circle", cx=x, cy=y, r=size, class_=class_)
        case "square":
            return element("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, class_=class_)
        case "diamond":
            radius = size * 1.3
            return _polygon([(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)], class_)
        case "triangle":
            return _polygon([(x, y - size * 1.2), (x + size * 1.2, y + size), (x - size * 1.2, y + size)], class_)
        case "cross":
            return element(
                "path",
                d=f"M{_value(x - size)} {_value(y - size)}L{_value(x + size)} {_value(y + size)}"
                f"M{_value(x - size)} {_value(y + size)}L{_value(x + size)} {_value(y - size)}",
                class_=class_,
            )


def _polygon(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    return element("polygon", points=" ".join(f"{_value(x)},{_value(y)}" for x, y in points), class_=class_)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear scale that maps values from 0 to ``top`` to pixels from ``start`` to ``end``."""

    top: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the position, in pixels, to which the scale maps ``value``."""
        return self.start + (self.end - self.start) * value / self.top


_NICE_TOPS = {1.0: 5, 1.5: 3, 2.0: 4, 2.5: 5, 3.0: 3, 4.0: 4, 5.0: 5, 6.0: 3, 8.0: 4, 10.0: 5}
"""The possible largest values of an axis, each as a multiple of a power of ten, with its number of tick intervals."""


def nice_top(largest: float, *, limit: float = math.inf) -> float:
    """Return the largest value of an axis for data up to ``largest``: a round number, or ``limit`` if it is smaller."""
    if largest <= 0:
        return min(1.0, limit)
    power: float = 10.0 ** math.floor(math.log10(largest))
    return min(limit, next(step * power for step in _NICE_TOPS if largest <= step * power * (1 + 1e-9)))


def ticks(top: float) -> list[float]:
    """Return the values of the ticks of an axis from 0 to ``top``, which must be a result of ``nice_top``."""
    mantissa = top / 10.0 ** math.floor(math.log10(top) + 1e-9)
    num_steps = next((count for end, count in _NICE_TOPS.items() if abs(mantissa - end) < 1e-6), 4)
    return [top * i / num_steps for i in range(num_steps + 1)]


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
