"""Measures how well models that were trained on few or many rows answer the query alone (exact match).

    python benchmarks/quality.py [--rows 8 16 24 32 128] [--worlds 5] [--held-out 500] [--out docs/quality.json]

Training in stages is compared with direct fine-tuning (Direct). For each number of rows and each of several sample
worlds that the base model has never seen, a first job trains Direct with equal rows (each row as often as in the
stages), and a second job trains Direct with equal tokens (as many training tokens as in the stages). The stages of both
jobs are the same, so the second job copies them from the first. The table shows the mean over the worlds and its 95 %
t-interval.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from promptintern.libraries import quiet_libraries
from promptintern.pipeline.events import Event
from promptintern.report.schema import Report
from promptintern.run.driver import open_run, run_job
from promptintern.sample.job import build_job
from promptintern_api import parse_job
from promptintern_api.metrics import Metric

FIRST_WORLD = 2_000
"""The number of the first world that is measured. The examples in the documentation use other worlds."""
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""The 0.975 quantile of Student's t-distribution by the number of values, which is the degrees of freedom plus one."""


class Quiet:
    """An observer that records nothing and never stops."""

    def emit(self, event: Event) -> None:
        """Do nothing."""

    def stop_requested(self) -> bool:
        """Return False."""
        return False

    def record_ending(self, kind: str, problems: Any) -> None:
        """Do nothing."""

    def has_ending(self) -> bool:
        """Return False."""
        return False

    def record_saved(self, where: str) -> bool:
        """Return False."""
        return False


def measure(rows: int, world: int, held_out: int, folder: Path) -> dict[str, float]:
    """Run two jobs in one world, and return the exact match of each arm in percent.

    Direct trains on as many rows as the stages in the first job, and on as many tokens in the second.
    """
    storage = folder.as_uri()
    figures: dict[str, float] = {}
    first: Path | None = None
    for budget in ("Rows", "Tokens"):
        document = build_job(world=world, rows=rows, name="quality")
        document["spec"]["evaluation"] |= {"latencyQueries": 0, "stageRows": 1, "directBudget": budget}
        document["spec"]["data"]["eval"]["uri"] = f"sample://formulas/eval?world={world}&rows={held_out}"
        document["spec"]["evaluation"]["gate"] = {"onFail": "Continue"}
        job = parse_job(document)
        folder_of_run = Path(open_run(job, storage).store.uri.removeprefix("file://"))
        if first is not None:
            for part in ("stages/0", "stages/1", "stages/2", "stages/3", "adapter"):
                shutil.copytree(first / part, folder_of_run / part)
            for arm in ("FullPrompt", "QueryOnly", "Base"):
                shutil.copytree(first / f"evaluation/{arm}", folder_of_run / f"evaluation/{arm}")
        report: Report = run_job(job, storage_uri=storage, workers=0, observer=Quiet())
        exact = {arm.name: 100 * arm.figure(Metric.EXACT_MATCH).value for arm in report.arms}
        figures |= {name: exact[name] for name in ("FullPrompt", "QueryOnly", "Base")}
        figures[f"Direct, equal {budget.lower()}"] = exact["Direct"]
        first = folder_of_run
    return figures


def machine() -> dict[str, str]:
    """Return the machine and the versions of Python and of the measured libraries, as text by name."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in ("promptintern", "torch", "transformers", "peft")},
    }


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean of ``values`` and the half-width of its 95 % t-interval, which is NaN for a single value."""
    if len(values) < 2:
        return values[0], float("nan")
    return statistics.mean(values), _T95[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def main() -> None:
    """Measure, print a Markdown table, and write the measurements of every world to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16, 24, 32, 128])
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("docs/quality.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    results: dict[str, list[dict[str, float]]] = {}
    start = time.monotonic()
    for rows in arguments.rows:
        for world in range(FIRST_WORLD, FIRST_WORLD + arguments.worlds):
            with tempfile.TemporaryDirectory(prefix="promptintern-quality-") as folder:
                figures = measure(rows, world, arguments.held_out, Path(folder))
            results.setdefault(str(rows), []).append(figures)
            elapsed = time.monotonic() - start
            print(f"[{elapsed:6.0f} s] rows {rows}, world {world}: {figures}", file=sys.stderr, flush=True)
    document = {"machine": machine(), "heldOutRows": arguments.held_out, "exactMatch": results}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    arms = list(next(iter(results.values()))[0])
    print(f"| rows | {' | '.join(arms)} |\n|---:|{'---:|' * len(arms)}")
    for rows, worlds in results.items():
        cells = []
        for arm in arms:
            mean, half = interval([figures[arm] for figures in worlds])
            cells.append(f"{mean:.1f} ± {half:.1f}")
        print(f"| {rows} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
