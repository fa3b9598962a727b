"""From the measurements to docs/performance.md and its plot."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.training.alike import ROWS, STEPS
from benchmarks.training.compare import (
    CLOSE,
    FAR_BEHIND,
    NAMES,
    OF_SHORT,
    SHORT,
    Setting,
    best_of,
    differences,
    is_same_training,
)
from benchmarks.training.material import MADE_UP
from benchmarks.training.processes import OUR_SPINS, SPINS
from benchmarks.training.profile import PACK

_COLOURS = {"hf": "#8a8f98", "trl": "#b08d57", "trl-packed": "#6f8fa8", "ours": "#0b7a5b"}


def document(measured: Mapping[str, Any], *, name: str) -> str:
    """The Markdown of whatever was measured; ``name`` is the plot's, too."""
    machine, shape = measured["machine"], measured["shape"]
    on_gpu = shape["device"] != "cpu"
    lines = [
        "# Training speed" + (" on a GPU" if on_gpu else ""),
        "",
        f"Written by `{_command(measured)}`, which took {measured['minutes']} minutes. {machine_text(machine)}",
        "",
        f"Llama with random weights: {shape['layers']} layers of {shape['hidden']}, {shape['heads']} heads "
        f"({shape['key_value_heads']} for keys and values), {shape['dtype']}, LoRA r={shape['lora_r']} on all linear "
        f"layers. Data: {measured['data']}; a template of {measured['template']} tokens, 5 retrieved examples, "
        f"{measured['rows']} rows an optimizer step. Every measurement is a process of its own; methods take turns. "
        f"After the first round go on all sizes within {CLOSE} times their method's best, unless that was {FAR_BEHIND} "
        "times slower than the best of the others; "
        f"figures are medians over {rounds(measured, 'compare')}, of packs, workers and answers over "
        f"{rounds(measured, 'packs')}" + (_ON_GPU if on_gpu else _on_cpu(measured)),
    ]
    if "note" in measured:
        lines += ["", measured["note"]]
    for key, part in _PARTS.items():
        if key in measured:
            lines += ["", *(line.replace("performance.svg", f"{name}.svg") for line in part(measured))]
    return "\n".join(lines) + "\n"


_ON_GPU = (
    ". Of four steps the last three count; ours hold the planning of their packs. The others compute LoRA under "
    "bfloat16 autocast, TRL's default, and attention by PyTorch's own kernels with a mask: the flash-attn package was "
    "not there. Peaks are what PyTorch allocated on the GPU."
)


def _on_cpu(measured: Mapping[str, Any]) -> str:
    return (
        f", and {rounds(measured, 'costs')} for what is beside the steps. Of two steps the second counts; ours holds "
        f"the planning of its packs. A step of less than {SHORT:.0f} s is measured {OF_SHORT} times a round. "
        f"{measured['threads']} threads; in our processes {SPINS}={OUR_SPINS}, as our command line "
        "sets it, in the others libgomp's default. Ours may compute several packs at a time, each on threads of its "
        "own; its size is the tokens of all of them. Peaks of memory include the libraries a method imports."
    )


def _command(measured: Mapping[str, Any]) -> str:
    if measured["shape"]["device"] != "cpu":
        return "python -m benchmarks.training"
    return "make bench" + ("" if measured["data"] == MADE_UP else f" DATA={measured['data']}")


def rounds(measured: Mapping[str, Any], part: str) -> str:
    """How often a part was measured."""
    count = measured["rounds"][part]
    return f"{count} round{'s' if count > 1 else ''}"


def machine_text(machine: Mapping[str, Any]) -> str:
    """In a sentence."""
    return "; ".join(f"{name} {value}" for name, value in machine.items()) + "."


def _compare(measured: Mapping[str, Any]) -> Iterator[str]:
    rows = measured["rows"]
    settings = [Setting(**setting) for setting in measured["compare"]]
    best = best_of(settings)
    yield "## Against HF Trainer and TRL, stage by stage"
    yield ""
    yield "![Examples per second of every method in every stage](performance.svg)"
    yield ""
    yield from table(
        ["stage", "method", "batch or pack", "examples/s", "slowest to fastest", "peak MiB"],
        [
            [
                str(s.stage + 1),
                NAMES[s.method],
                str(s.size),
                f"{rows / s.median:.1f}",
                f"{rows / max(s.seconds):.1f} to {rows / min(s.seconds):.1f}",
                f"{s.peak_mib:.0f}",
            ]
            for s in sorted(best, key=lambda s: (s.stage, list(NAMES).index(s.method)))
        ],
    )
    yield ""
    yield from _ratios(best, measured["shape"]["dtype"])
    yield ""
    rates = [f"stage {s.stage + 1}: {s.mfu:.1%}" for s in best if s.mfu is not None]
    if rates:
        yield f"Model FLOPs utilization of PromptIntern: {'; '.join(rates)}."
        yield ""
    others = [s for s in settings if s not in best]
    yield (
        "TRL pads as HF Trainer does, and was given the batch that was best there in the first round. Slower: "
        + "; ".join(f"stage {s.stage + 1} {NAMES[s.method]} {s.size}: {rows / s.median:.1f}" for s in others)
        + "."
    )


def _ratios(best: Sequence[Setting], dtype: str) -> Iterator[str]:
    """Ours against the faster of the others."""
    totals: dict[str, float] = {}
    lines = []
    for stage in sorted({s.stage for s in best}):
        here = {s.method: s for s in best if s.stage == stage}
        for method, setting in here.items():
            totals[method] = totals.get(method, 0.0) + setting.median
        ours = here.pop("ours", None)
        if ours is None or not here:
            return
        nearest = min(here.values(), key=lambda s: s.median)
        difference = differences(ours, list(here.values()))
        is_same = difference is None or is_same_training(difference, dtype)
        difference_text = (
            ""
            if difference is None
            else f"{difference[0]:.0e}, {difference[1]:.0e}" + ("" if is_same else ": NOT THE SAME TRAINING")
        )
        lines.append(
            [
                str(stage + 1),
                f"{nearest.median / ours.median:.2f}x {NAMES[nearest.method]}",
                f"{min(s.peak_mib for s in here.values()):.0f} to {max(s.peak_mib for s in here.values()):.0f}, "
                f"ours {ours.peak_mib:.0f}",
                difference_text,
            ]
        )
    ours_total = totals.pop("ours")
    nearest_method = min(totals, key=lambda method: totals[method])
    lines.append(["all", f"**{totals[nearest_method] / ours_total:.2f}x** {NAMES[nearest_method]}", "", ""])
    yield from table(
        ["stage", "ours, of the best other", "peak MiB of the others", "losses and gradient norms differ by"], lines
    )


def _alike(measured: Mapping[str, Any]) -> Iterator[str]:
    yield "## The same training"
    yield ""
    yield (
        f"{STEPS} steps of {ROWS} rows of the first stage, not timed. A packed TRL step holds other rows, and is not "
        "compared."
    )
    yield ""
    yield from table(
        ["against", "its loss, first and last step", "ours, last step", "losses differ by", "gradient norms"],
        [
            [
                NAMES[method],
                f"{each['first']:.4f}, {each['last']:.4f}",
                f"{each['ours']:.4f}",
                f"{each['losses']:.0e}",
                f"{each['norms']:.0e}",
            ]
            for method, each in measured["alike"].items()
        ],
    )


def _lengths(measured: Mapping[str, Any]) -> Iterator[str]:
    on_gpu = measured["shape"]["device"] != "cpu"
    yield "## The longer the template, the larger the gain"
    yield ""
    yield (
        f"The first stage, {measured['rows']} rows below one template, {_together(measured)}, against HF Trainer with "
        "padded rows, in steps of 16,384 tokens or of 2 rows, in batches of up to "
        f"{16 if on_gpu else 4} rows, whichever was faster"
        + ("; its time is scaled to as many tokens a row as ours had." if "gains" in measured["lengths"][0] else ".")
    )
    yield ""
    yield from table(
        ["template", "mean row", "ours, examples/s", "HF Trainer", "its batch", "gain"],
        [
            [
                str(each["template"]),
                f"{each['row']:.0f}",
                f"{each['ours']:.2f}",
                f"{each['hf']:.2f}",
                str(each["batch"]),
                f"**{each['ours'] / each['hf']:.1f}x**{_from_to(each.get('gains'))}",
            ]
            for each in measured["lengths"]
        ],
    )


def _together(measured: Mapping[str, Any]) -> str:
    packs = max(each.get("packs", 1) for each in measured["lengths"])
    if packs == 1:
        return "in one pack"
    return (
        f"which is computed once for all of them, in {packs:.0f} packs of {measured['rows'] / packs:.0f} side by side"
    )


def _from_to(gains: Sequence[float] | None) -> str:
    """The smallest and the largest of several."""
    return f" ({min(gains):.1f} to {max(gains):.1f})" if gains and len(gains) > 1 else ""


def _packs(measured: Mapping[str, Any]) -> Iterator[str]:
    yield "## Rows in a pack"
    yield ""
    yield from table(
        ["tokens at a time", "packs at a time", "rows in a pack", "examples/s", "peak MiB"],
        [
            [
                str(each["pack"]),
                str(each.get("lanes", 1)),
                f"{each['rows_per_pack']:.1f}",
                f"{each['ours']:.1f}",
                f"{each['peak_mib']:.0f}" if "peak_mib" in each else "",
            ]
            for each in measured["packs"]
        ],
    )


def _profile(measured: Mapping[str, Any]) -> Iterator[str]:
    yield "## Where the time goes"
    yield ""
    pack = PACK[measured["shape"]["device"]]
    yield (
        f"A step of the first stage with {pack:,} tokens at a time under PyTorch's profiler. "
        "It slows down what is small. Where threads have packs of their own, it is the time of all of them; the shared "
        "prefix, which they compute together, is counted as one's."
    )
    yield ""
    spent = measured["profile"]
    counted = any(each["gflops"] for each in spent.values())
    yield from table(
        ["", "share", *(["GFLOP/s"] if counted else [])],
        [
            [kind, f"{each['share']:.0%}", *([f"{each['gflops']:.0f}" if each["gflops"] else ""] if counted else [])]
            for kind, each in spent.items()
        ],
    )


def _workers(measured: Mapping[str, Any]) -> Iterator[str]:
    rates = {int(count): rate for count, rate in measured["workers"].items()}
    yield "## From one worker to two"
    yield ""
    yield (
        f"One thread each, gradients by gloo: {rates[1]:.1f} and {rates[2]:.1f} examples/s, {rates[2] / rates[1]:.2f}x."
    )


def _costs(measured: Mapping[str, Any]) -> Iterator[str]:
    costs = measured["costs"]
    yield "## Beside the steps"
    yield ""
    yield from table(
        ["", "seconds", ""],
        [
            ["training of a stage", f"{costs['stage']:.1f}", ""],
            [
                "from one stage to the next",
                f"{costs['change']:.2f}",
                f"{costs['share']:.1%} of the next stage's time at most",
            ],
            [
                "the same, with storage on an S3 server on this machine",
                f"{costs['s3_change']:.2f}",
                f"{costs['s3_share']:.1%} of the next stage's time at most",
            ],
            [
                "a new process per stage instead, or to resume",
                f"{costs['start']:.1f}",
                f"{costs['start'] / costs['stage']:.0%} of the stage's time",
            ],
            [
                "a checkpoint holds training up",
                f"{costs['save']:.3f}",
                f"{costs['save'] / costs['step']:.2%} of a step of {costs['step']:.2f} s",
            ],
            ["until it is stored, while training goes on", f"{costs['stored']:.2f}", ""],
            ["the same, on an S3 server on this machine", f"{costs['s3_stored']:.2f}", ""],
        ],
    )
    yield ""
    yield (
        "Checkpoints are written, or uploaded, while training goes on. With one every second, the first stage had "
        f"{costs['local']:.1f} examples/s with storage on this machine's disk and {costs['s3']:.1f} with storage on an "
        f"S3 server on this machine ({costs['s3'] / costs['local']:.2f}x)."
    )


def _answers(measured: Mapping[str, Any]) -> Iterator[str]:
    answers = measured["answers"]
    full, alone = answers["full prompt"], answers["query only"]
    yield "## Answers: the full prompt against the query alone"
    yield ""
    yield "24 tokens each, by the same model without an adapter; a merged one costs nothing. A run's own evaluation"
    yield "computes once what all prompts begin with; a server that keeps nothing between requests computes them whole."
    yield ""
    yield from table(
        ["", "prompt tokens", "seconds, one by one", "seconds each, in a batch of 32", "as a run evaluates"],
        [
            *(
                [
                    kind,
                    f"{each['prompt']:.0f}",
                    f"{each['alone']:.3f}",
                    f"{each['batched']:.4f}",
                    f"{each['evaluated']:.4f}" if "evaluated" in each else "",
                ]
                for kind, each in answers.items()
            ),
            [
                "**gain**",
                f"{1 - alone['prompt'] / full['prompt']:.0%} fewer",
                f"{full['alone'] / alone['alone']:.1f}x",
                f"{full['batched'] / alone['batched']:.1f}x",
                "",
            ],
        ],
    )


_PARTS = {
    "compare": _compare,
    "alike": _alike,
    "lengths": _lengths,
    "packs": _packs,
    "profile": _profile,
    "workers": _workers,
    "costs": _costs,
    "answers": _answers,
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """In Markdown."""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def plot(measured: Mapping[str, Any], path: Path) -> None:
    """Examples per second by stage and method, and the gain by the template's length."""
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
