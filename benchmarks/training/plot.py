"""Draws the plot of docs/performance.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.training.compare import NAMES, Setting, best_of

_COLOURS = {"hf": "#8a8f98", "trl": "#b08d57", "trl-packed": "#6f8fa8", "ours": "#0b7a5b"}


def plot(measured: Mapping[str, Any], path: Path) -> None:
    """Draw the examples per second by stage and method, and the speedup over HF Trainer by template length."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "promptintern"
    best = best_of([Setting(**setting) for setting in measured["compare"]])
    methods = [method for method in NAMES if any(s.method == method for s in best)]
    stages = sorted({s.stage for s in best})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), width_ratios=(2, 1), layout="constrained")
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        rates = [next(measured["rows"] / s.median for s in best if (s.stage, s.method) == (t, method)) for t in stages]
        places = [i + (number - (len(methods) - 1) / 2) * width for i in range(len(stages))]
        left.bar(places, rates, width, label=NAMES[method], color=_COLOURS[method])
    left.set_xticks(range(len(stages)), [f"stage {stage + 1}" for stage in stages])
    left.set_ylabel("examples/s")
    left.legend(frameon=False)
    lengths = measured["lengths"]
    right.plot(
        [each["template"] for each in lengths],
        [each["ours"] / each["hf"] for each in lengths],
        "o-",
        color=_COLOURS["ours"],
    )
    right.set_xscale("log", base=2)
    right.set_xticks([each["template"] for each in lengths], [str(each["template"]) for each in lengths])
    right.set_ylim(bottom=0)
    right.set_xlabel("tokens of template, stage 1")
    right.set_ylabel("times HF Trainer's examples/s")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
