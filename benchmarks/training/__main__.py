"""Training speed against what a user would pick instead, stage by stage, in one run on one machine.

    make bench
    python -m benchmarks.training [--data rows.jsonl] [--template-tokens 380] [--repeats 3] [--json out.json]

The same random Llama, rows, LoRA and steps go through HF Trainer with PEFT, TRL's SFTTrainer (padded, and packed by
bfd), and this project's engine. Every measurement is a process of its own, methods take turns within a repeat, the
first step of a process does not count, and a method's figure is its best batch size's median over all steps. Steps
are over the same rows in the same order, and the losses of padded methods are compared step by step; a packed TRL step
holds other rows, so its time is scaled to as many tokens.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.preprocess import machine
from benchmarks.training.material import Shape, shape_of, text_of, write_material

SIZES = {"hf": (4, 16), "trl": (4, 16), "trl-packed": (1024, 4096), "ours": (4096, 8192)}
NAMES = {"hf": "HF Trainer + PEFT", "trl": "TRL, padded", "trl-packed": "TRL, packed (bfd)", "ours": "PromptIntern"}
_LOSS_TOLERANCE = 1e-3
"""Relative, of a step's loss. Updates differ by rounding, which the steps before carry on."""


@dataclass(kw_only=True)
class Setting:
    """One method at one batch size in one stage."""

    method: str
    size: int
    stage: int
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_mib: float = 0.0


def main() -> None:
    """Measure and print; with --json, write all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSONL of query and answer; made-up rows without it")
    parser.add_argument("--template-tokens", type=int, default=380)
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3], help="of a schedule of four")
    parser.add_argument("--rows", type=int, default=64, help="of an optimizer step")
    parser.add_argument("--steps", type=int, default=2, help="that count, of every process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--shape", default="{}", help="JSON of the model's shape, where it is not the default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    shape = shape_of(arguments.shape)
    settings = [
        Setting(method=m, size=n, stage=s) for s in arguments.stages for m in arguments.methods for n in SIZES[m]
    ]
    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder)
        write_material(
            material,
            data=arguments.data,
            rows=max(1500, arguments.rows * (arguments.steps + 1)),
            template_tokens=arguments.template_tokens,
            stages=4,
        )
        for repeat in range(arguments.repeats):
            for setting in settings:
                print(
                    f"repeat {repeat + 1} of {arguments.repeats}: stage {setting.stage + 1}, {NAMES[setting.method]}, "
                    f"{setting.size}",
                    file=sys.stderr,
                    flush=True,
                )
                measure(setting, material, shape, rows=arguments.rows, steps=arguments.steps)
    document = {
        "machine": machine() | {name: version(name) for name in ("peft", "trl", "accelerate")},
        "rows_per_step": arguments.rows,
        "template_tokens": arguments.template_tokens,
        "data": "made up" if arguments.data is None else arguments.data.name,
        "shape": json.loads(text_of(shape)),
        "settings": [setting.__dict__ for setting in settings],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1))
    print("\n".join(report(settings, rows=arguments.rows)))
    print(json.dumps(document["machine"]))


def measure(setting: Setting, material: Path, shape: Shape, *, rows: int, steps: int) -> None:
    """One process; its measurements are added to ``setting``."""
    command = [sys.executable, "-m", "benchmarks.training.methods", setting.method, str(setting.stage)]
    command += [str(rows), str(steps), str(setting.size), str(material), text_of(shape)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    setting.seconds += found["seconds"]
    setting.losses = found["losses"]
    setting.peak_mib = max(setting.peak_mib, found["peak_mib"])


def best(settings: list[Setting], stage: int, method: str) -> Setting:
    """The method's fastest batch size in a stage."""
    return min(
        (s for s in settings if s.stage == stage and s.method == method), key=lambda s: statistics.median(s.seconds)
    )


def report(settings: list[Setting], *, rows: int) -> Iterator[str]:
    """Tables in Markdown: examples per second, the spread over steps, peak memory, and the ratios."""
    methods = list(dict.fromkeys(s.method for s in settings))
    stages = sorted({s.stage for s in settings})
    yield "| stage | method | batch or pack | examples/s | slowest to fastest step | peak MiB |"
    yield "|---|---|---:|---:|---:|---:|"
    for stage in stages:
        for method in methods:
            s = best(settings, stage, method)
            middle, low, high = (rows / x for x in (statistics.median(s.seconds), max(s.seconds), min(s.seconds)))
            spread = f"{low:.1f} to {high:.1f}"
            yield f"| {stage + 1} | {NAMES[method]} | {s.size} | {middle:.1f} | {spread} | {s.peak_mib:.0f} |"
    peers = [m for m in methods if m != "ours"]
    if "ours" not in methods or not peers:
        return
    yield ""
    totals = dict.fromkeys(methods, 0.0)
    for stage in stages:
        ours, theirs = best(settings, stage, "ours"), [best(settings, stage, m) for m in peers]
        for s in (ours, *theirs):
            totals[s.method] += statistics.median(s.seconds)
        fastest = min(theirs, key=lambda s: statistics.median(s.seconds))
        ratio = statistics.median(fastest.seconds) / statistics.median(ours.seconds)
        yield f"stage {stage + 1}: {ratio:.2f}x the examples/s of {NAMES[fastest.method]}; {_losses(ours, theirs)}"
    nearest = min(peers, key=lambda m: totals[m])
    yield f"all stages: {totals[nearest] / totals['ours']:.2f}x {NAMES[nearest]}"


def _losses(ours: Setting, theirs: list[Setting]) -> str:
    off = max(
        (
            abs(a - b) / abs(b)
            for s in theirs
            if s.method != "trl-packed"
            for a, b in zip(ours.losses, s.losses, strict=False)
        ),
        default=0.0,
    )
    return f"losses within {off:.1e}" + ("" if off <= _LOSS_TOLERANCE else ": NOT THE SAME TRAINING")


if __name__ == "__main__":
    main()
