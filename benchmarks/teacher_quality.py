"""Measures how well models that learned from queries without answers answer the query alone (exact match).

    python benchmarks/teacher_quality.py [--worlds 5] [--held-out 500] [--settings NAME ...]
                                         [--out docs/teacher-quality.json]

In each of several sample worlds that the base model has never seen, jobs learn from a number of queries that the base
model with the full prompt answers, with or without 16 training rows, and with or without a stage at rate 0.5 before the
last one. (The 16 rows are also among the queries, so the teacher answers only the others.) Without stages, the rows are
as many ("equal rows") or the training tokens are about as many ("equal tokens") as with stages. The table shows the
mean over the worlds and its 95 % t-interval, and the differences paired by world.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptintern.libraries import quiet_libraries
from promptintern.run.driver import run_job
from promptintern.sample.job import TAUGHT_STAGES, build_job
from promptintern_api import parse_job
from promptintern_api.metrics import Metric
from quality import FIRST_WORLD, Quiet, interval, machine

LAST = {"templateRate": 0, "shots": 0}
STAGES = ({"templateRate": 0.5, "shots": 0, "epochs": 1}, {**LAST, "epochs": 4})
EQUAL_ROWS = TAUGHT_STAGES
EQUAL_TOKENS = ({**LAST, "epochs": 11},)
"""About as many training tokens as ``STAGES`` has on the sample's prompts."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The data and the stages of a job, and the settings of its teacher."""

    queries: int
    rows: int = 0
    stages: Sequence[Mapping[str, float]] = STAGES
    teacher: Mapping[str, Any] = field(default_factory=dict)


SETTINGS = {
    **{
        f"{queries:,} queries, {name}": Setting(queries=queries, stages=stages)
        for queries in (250, 1000, 4000)
        for name, stages in (
            ("stages", STAGES),
            ("no stages, equal rows", EQUAL_ROWS),
            ("no stages, equal tokens", EQUAL_TOKENS),
        )
    },
    "16 rows and 1,000 queries, stages": Setting(queries=1000, rows=16),
    "16 rows and 1,000 queries, no stages, equal rows": Setting(queries=1000, rows=16, stages=EQUAL_ROWS),
    "1,000 queries, stages, JensenShannon": Setting(queries=1000, teacher={"loss": "JensenShannon"}),
    "1,000 queries, stages, Answers": Setting(queries=1000, teacher={"loss": "Answers"}),
    "1,000 queries, stages, topK 8": Setting(queries=1000, teacher={"topK": 8}),
}
PAIRS = (
    *(
        (f"{queries:,} queries, stages", f"{queries:,} queries, no stages, {budget}")
        for queries in (250, 1000, 4000)
        for budget in ("equal rows", "equal tokens")
    ),
    ("16 rows and 1,000 queries, stages", "16 rows and 1,000 queries, no stages, equal rows"),
    ("16 rows and 1,000 queries, stages", "1,000 queries, stages"),
    ("1,000 queries, stages, JensenShannon", "1,000 queries, stages"),
    ("1,000 queries, stages, Answers", "1,000 queries, stages"),
    ("1,000 queries, stages, topK 8", "1,000 queries, stages"),
)
"""The pairs of settings whose difference the second table shows."""


def measure(setting: Setting, world: int, held_out: int, folder: Path) -> dict[str, float]:
    """Run one job in one world. Return each arm's exact match in percent, and the training tokens of all stages."""
    document = build_job(world=world, rows=setting.rows, queries=setting.queries, name="quality")
    spec = document["spec"]
    spec["schedule"] = {"explicit": [dict(stage) for stage in setting.stages]}
    spec["training"] |= {"teacher": dict(setting.teacher)} if setting.teacher else {}
    spec["data"]["eval"]["uri"] = f"sample://formulas/eval?world={world}&rows={held_out}"
    spec["evaluation"] |= {
        "latencyQueries": 0,
        "stageRows": 1,
        "gate": {"onFail": "Continue"},
        "arms": ["FullPrompt", "QueryOnly"],
    }
    report = run_job(parse_job(document), storage_uri=folder.as_uri(), workers=0, observer=Quiet())
    figures = {arm.name: 100 * arm.figure(Metric.EXACT_MATCH).value for arm in report.arms}
    return figures | {"trainingTokens": sum(stage.training_tokens for stage in report.stages)}


def print_tables(results: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Print the results, and the differences between pairs of settings, as Markdown."""
    print("| setting | FullPrompt | QueryOnly | training tokens |\n|---|---:|---:|---:|")
    for name, worlds in results.items():
        cells = ["{:.1f} ± {:.1f}".format(*interval([w[arm] for w in worlds])) for arm in ("FullPrompt", "QueryOnly")]
        tokens = sum(w["trainingTokens"] for w in worlds) / len(worlds)
        print(f"| {name} | {' | '.join(cells)} | {tokens:,.0f} |")
    print("\n| difference in QueryOnly | points |\n|---|---:|")
    for a, b in PAIRS:
        if a in results and b in results:
            differences = [x["QueryOnly"] - y["QueryOnly"] for x, y in zip(results[a], results[b], strict=True)]
            print("| {} minus {} | {:+.1f} ± {:.1f} |".format(a, b, *interval(differences)))


def main() -> None:
    """Measure, print Markdown tables, and write the measurements of every world to --out after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("docs/teacher-quality.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    results: dict[str, list[dict[str, float]]] = {}
    start = time.monotonic()
    for name in arguments.settings:
        for world in range(FIRST_WORLD, FIRST_WORLD + arguments.worlds):
            with tempfile.TemporaryDirectory(prefix="promptintern-quality-") as folder:
                figures = measure(SETTINGS[name], world, arguments.held_out, Path(folder))
            results.setdefault(name, []).append(figures)
            elapsed = time.monotonic() - start
            print(f"[{elapsed:6.0f} s] {name}, world {world}: {figures}", file=sys.stderr, flush=True)
            document = {"machine": machine(), "heldOutRows": arguments.held_out, "results": results}
            arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print_tables(results)


if __name__ == "__main__":
    main()
