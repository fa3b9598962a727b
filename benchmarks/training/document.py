"""Writes docs/performance.md from the measurements."""

from collections.abc import Iterator, Mapping, Sequence
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
from benchmarks.training.document_runs import answers_section, costs_section, rounds, table, workers_section
from benchmarks.training.material import MADE_UP
from benchmarks.training.processes import OUR_SPINS, SPINS
from benchmarks.training.profile import PACK


def document(measured: Mapping[str, Any], *, name: str) -> str:
    """Return the page in Markdown, with a section for each part that was measured.

    Args:
        name: The name of the page and its plot, without a suffix.
    """
    machine, shape = measured["machine"], measured["shape"]
    on_gpu = shape["device"] != "cpu"
    lines = [
        "# Training speed" + (" on a GPU" if on_gpu else ""),
        "",
        f"`{_command(measured)}` wrote this page in {measured['minutes']} minutes. The machine and the versions are: "
        f"{machine_text(machine)}",
        "",
        f"The model is a Llama with random weights: {shape['layers']} layers of width {shape['hidden']:,}, "
        f"{shape['heads']} heads ({shape['key_value_heads']} for keys and values), {shape['dtype']}, and LoRA with "
        f"r={shape['lora_r']} on all linear layers. The data are {measured['data']}. A prompt has a template of "
        f"{measured['template']} tokens and 5 retrieved examples; an optimizer step has {measured['rows']} rows.",
        "",
        "Each measurement runs in a separate process, and the methods take turns. After the first round, slow settings "
        "are not measured again. A batch size is measured again only if its step took at most "
        f"{CLOSE} times as long as a step with the best size of the same method. A method other than PromptIntern is "
        f"measured again only if its best step took at most {FAR_BEHIND} times as long as the best step of the fastest "
        f"of these methods. The figures are medians over {rounds(measured, 'compare')}. The figures of packs, workers "
        f"and answers are medians over {rounds(measured, 'packs')}" + (_ON_GPU if on_gpu else _on_cpu(measured)),
    ]
    if "note" in measured:
        lines += ["", measured["note"]]
    for key, part in _PARTS.items():
        if key in measured:
            lines += ["", *(line.replace("performance.svg", f"{name}.svg") for line in part(measured))]
    return "\n".join(lines) + "\n"


_ON_GPU = (
    ". Each process runs four steps, of which the last three count. PromptIntern's time includes the planning of "
    "packs. The other trainers compute LoRA under bfloat16 autocast, which is TRL's default. They compute attention "
    "with a mask and with PyTorch's own kernels, because the flash-attn package was not installed. Peak memory is the "
    "largest amount of memory that PyTorch allocated on the GPU."
)


def _on_cpu(measured: Mapping[str, Any]) -> str:
    return (
        f'. The figures under "Outside the steps" are from {rounds(measured, "costs")}. Each process runs two steps, '
        "of which the second counts. PromptIntern's time includes the planning of packs. A step that takes less than "
        f"{SHORT:.0f} s is measured {OF_SHORT} times per round. Each process has {measured['threads']} threads. "
        f"PromptIntern's processes use {SPINS}={OUR_SPINS}, as its command line does; the others use libgomp's "
        "default. PromptIntern may compute several packs concurrently, each on its own threads. The pack size given "
        "for PromptIntern is the total number of tokens in all concurrent packs. Peak memory includes the libraries "
        "that a method imports."
    )


def _command(measured: Mapping[str, Any]) -> str:
    if measured["shape"]["device"] != "cpu":
        return "python -m benchmarks.training"
    return "make bench" + ("" if measured["data"] == MADE_UP else f" DATA={measured['data']}")


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return the description of the machine and the versions, as the end of a sentence."""
    return "; ".join(f"{name} {value}" for name, value in machine.items()) + "."


_SIZE = "rows in a batch, or tokens in a pack"


def _compare(measured: Mapping[str, Any]) -> Iterator[str]:
    rows = measured["rows"]
    settings = [Setting(**setting) for setting in measured["compare"]]
    best = best_of(settings)
    yield "## Compared with HF Trainer and TRL, stage by stage"
    yield ""
    yield "![Examples per second of every method in every stage](performance.svg)"
    yield ""
    yield from table(
        ["stage", "method", _SIZE, "examples/s", "examples/s, slowest to fastest step", "peak MiB"],
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
    yield (
        "Padded TRL was given the batch size that was best for HF Trainer in the first round, because both pad in the "
        "same way. The following settings were slower:"
    )
    yield ""
    yield from table(
        ["stage", "method", _SIZE, "examples/s"],
        [[str(s.stage + 1), NAMES[s.method], str(s.size), f"{rows / s.median:.1f}"] for s in settings if s not in best],
    )


def _ratios(best: Sequence[Setting], dtype: str) -> Iterator[str]:
    """Yield a table that compares our engine with the fastest other method in each stage."""
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
                f"others {min(s.peak_mib for s in here.values()):.0f} to "
                f"{max(s.peak_mib for s in here.values()):.0f}, PromptIntern {ours.peak_mib:.0f}",
                difference_text,
            ]
        )
    ours_total = totals.pop("ours")
    nearest_method = min(totals, key=lambda method: totals[method])
    lines.append(["all", f"**{totals[nearest_method] / ours_total:.2f}x** {NAMES[nearest_method]}", "", ""])
    yield from table(
        [
            "stage",
            "PromptIntern relative to the best other method",
            "peak MiB",
            "relative differences of loss and gradient norm",
        ],
        lines,
    )


def _alike(measured: Mapping[str, Any]) -> Iterator[str]:
    yield "## The same training"
    yield ""
    yield (
        f"Each method trains the same {STEPS} steps of {ROWS} rows of the first stage. The steps are not timed. Packed "
        "TRL is left out, because its steps contain other rows."
    )
    yield ""
    yield from table(
        [
            "compared with",
            "loss of that method, first and last step",
            "PromptIntern's loss, last step",
            "relative difference of losses",
            "relative difference of gradient norms",
        ],
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
        f"This table compares PromptIntern with HF Trainer in the first stage. PromptIntern computes "
        f"{measured['rows']} rows {_arrangement(measured)} HF Trainer pads rows. Its steps have up to 16,384 tokens, "
        f"but at least 2 rows. Batches of up to {16 if on_gpu else 4} rows were tried, and the table shows the fastest "
        "batch size."
        + (
            " The time of HF Trainer is scaled to PromptIntern's number of tokens per row."
            if "gains" in measured["lengths"][0]
            else ""
        )
    )
    yield ""
    yield from table(
        [
            "tokens in the template",
            "mean tokens in a row",
            "PromptIntern, examples/s",
            "HF Trainer, examples/s",
            "HF Trainer's batch size",
            "gain (smallest to largest in a round)" if "gains" in measured["lengths"][0] else "gain",
        ],
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


def _arrangement(measured: Mapping[str, Any]) -> str:
    packs = max(each.get("packs", 1) for each in measured["lengths"])
    if packs == 1:
        return "in one pack."
    return (
        f"in {packs:.0f} concurrent packs of {measured['rows'] / packs:.0f} rows. All rows have the same template, "
        "which is computed once for all of them."
    )


def _from_to(gains: Sequence[float] | None) -> str:
    """Return the smallest and largest of several gains in parentheses, or an empty string for fewer than two."""
    return f" ({min(gains):.1f} to {max(gains):.1f})" if gains and len(gains) > 1 else ""


def _packs(measured: Mapping[str, Any]) -> Iterator[str]:
    yield "## Rows in a pack"
    yield ""
    yield from table(
        ["tokens in all concurrent packs", "concurrent packs", "rows in a pack", "examples/s", "peak MiB"],
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
        f"This table divides the time of a step of the first stage, with {pack:,} tokens in all concurrent packs. It "
        "was measured under PyTorch's profiler, which slows down short operations. While each thread computes its own "
        "pack, the times of all threads are added. The shared prefix is computed by all threads together, and its time "
        "counts as the time of one thread."
    )
    yield ""
    spent = measured["profile"]
    counted = any(each["gflops"] for each in spent.values())
    yield from table(
        ["operation", "share", *(["GFLOP/s"] if counted else [])],
        [
            [kind, f"{each['share']:.0%}", *([f"{each['gflops']:.0f}" if each["gflops"] else ""] if counted else [])]
            for kind, each in spent.items()
        ],
    )


_PARTS = {
    "compare": _compare,
    "alike": _alike,
    "lengths": _lengths,
    "packs": _packs,
    "profile": _profile,
    "workers": workers_section,
    "costs": costs_section,
    "answers": answers_section,
}
