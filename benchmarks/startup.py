"""Measures the CPU time of short commands, for two checkouts in one go.

    python -m benchmarks.startup BEFORE [--after .] [--adapter DIR] [--repeats 5]

BEFORE and --after are folders with a checkout. Both use this interpreter and its libraries. The commands are
`promptintern --help`, `promptintern status` against a server on this machine that serves one job, and, with --adapter,
`promptintern predict` with one question. Each command runs with each checkout, with bytecode and without, as after an
installation without bytecode if PYTHONDONTWRITEBYTECODE is set. These variants take turns, and the order changes from
round to round. Before the first round, every variant runs once, which fills the disk cache and writes bytecode. The
table gives medians, and the smallest and the largest value.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from tests.one_job_server import one_job_server

QUESTION = "In the north, what is the highest bonus and miles?"
_NICE = 10
_WITHOUT_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/nonexistent"}
Variant = tuple[Path, bool]
"""A checkout, and whether bytecode is used."""
_LIBRARIES = ("typer", "pydantic", "kubernetes", "torch", "transformers", "peft")


def cpu_seconds(checkout: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run `promptintern ARGUMENTS` with the packages of ``checkout``, and return its user and system time."""
    inherited = {name: value for name, value in os.environ.items() if name not in _WITHOUT_BYTECODE}
    packages = os.pathsep.join(str(checkout.resolve() / name) for name in ("trainer", "crds"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "promptintern.cli.app", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=tempfile.gettempdir(),
        env=inherited | environment | {"PYTHONPATH": packages},
        preexec_fn=lambda: os.nice(_NICE),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(
    variants: Sequence[Variant], commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], repeats: int
) -> dict[str, dict[Variant, list[float]]]:
    """Return the CPU times in seconds of each command in each variant."""
    seconds: dict[str, dict[Variant, list[float]]] = {name: {variant: [] for variant in variants} for name in commands}
    for turn in range(repeats):
        for name, arguments in commands.items():
            for checkout, has_bytecode in variants if turn % 2 == 0 else reversed(variants):
                settings = environment if has_bytecode else {**environment, **_WITHOUT_BYTECODE}
                seconds[name][checkout, has_bytecode].append(cpu_seconds(checkout, arguments, settings))
    return seconds


def spread(values: Sequence[float]) -> str:
    """Return the median of ``values``, and the smallest and the largest one."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("--after", type=Path, default=Path())
    parser.add_argument("--adapter", type=Path, help="folder of an adapter that was trained on the sample")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    variants = [(checkout, has) for has in (True, False) for checkout in (options.before, options.after)]
    commands = {"`--help`": ["--help"], "`status JOB`": ["status", "small"]}
    if options.adapter:
        commands["`predict`, one question"] = ["predict", str(options.adapter.resolve()), QUESTION]
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    print(f"{os.cpu_count()} CPUs, Python {platform.python_version()}, {libraries}; {options.repeats} rounds; ", end="")
    print(f"load average {os.getloadavg()[0]:.1f} at the start", end="")
    with tempfile.TemporaryDirectory() as folder, one_job_server(Path(folder, "kubeconfig")):
        kubeconfig = {"KUBECONFIG": str(Path(folder, "kubeconfig"))}
        measure(variants, commands, kubeconfig, 1)
        seconds = measure(variants, commands, kubeconfig, options.repeats)
    print(f", {os.getloadavg()[0]:.1f} at the end\n")
    print("| bytecode | command | before, s | after, s | after / before |\n|---|---|---:|---:|---:|")
    for title, before, after in (("yes", True, True), ("no", False, False), ("only after", False, True)):
        for name, times in seconds.items():
            old, new = times[options.before, before], times[options.after, after]
            ratio = statistics.median(new) / statistics.median(old)
            print(f"| {title} | {name} | {spread(old)} | {spread(new)} | {100 * ratio:.0f} % |")


if __name__ == "__main__":
    main()
