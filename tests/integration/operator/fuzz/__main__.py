"""Fuzz the operator: hostile specs, statuses and objects on a real API server, with fakes of KubeRay and the kubelets.

    python -m tests.integration.operator.fuzz [--cases 10000] [--seed 1] [--results .cache/fuzz.jsonl]

Each case must be refused by the API server or handled by the operator: every job that was created gets a condition, and
jobs under attack can still be suspended and still have deadlines. A tenant in another namespace submits jobs meanwhile.
Each batch of cases is written to the file of results once it is over, so the program can be stopped and started again.
Results of another version of the operator or of the fuzzer are left out.
"""

import argparse
import collections
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import promptintern_api
import promptintern_operator

from tests.integration.operator.fuzz.batch import Batch
from tests.integration.operator.fuzz.log import LogReader
from tests.integration.operator.fuzz.neighbour import Neighbour
from tests.integration.operator.fuzz.schemas import install_workloads, schemas_of
from tests.integration.operator.place import place_in
from tests.resumable import Results, source_version

SIZE = 400
"""The number of cases in a batch."""
_MOST_PODS = 3
"""The number of pods that a Ray cluster gets; a job may ask for 1,024 workers, and each pod would cost requests."""


@contextmanager
def prepared(folder: Path, *, period: float) -> Iterator[Batch]:
    """Start an API server and an operator below ``folder``; a tenant submits a job every ``period`` seconds."""
    with place_in(folder) as place:
        install_workloads(place.requests)
        place.kuberay.most_pods = _MOST_PODS
        operator = place.operator()
        operator.start()
        operator.wait_until_leading(60)
        neighbour = Neighbour(place, period=period)
        neighbour.start()
        try:
            yield Batch(place, operator, neighbour, LogReader(operator.log_file), schemas_of(place.requests))
        finally:
            neighbour.stop()
            place.kuberay.problems.clear()  # pods that the API server refuses, and objects that only resemble RayJobs


def main() -> int:
    """Run the batches that are missing; return 1 if there was a problem in any batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=12, help="cases per second")
    parser.add_argument("--period", type=float, default=2, help="seconds between two jobs of the other tenant")
    parser.add_argument("--control", type=float, default=8, help="seconds of each measurement without hostile cases")
    parser.add_argument("--results", type=Path, default=Path(".cache/fuzz.jsonl"))
    parser.add_argument("--log", type=Path, help="copy the operator's log here")
    parser.add_argument("--only", type=int, nargs="*", help="send only the cases with these numbers, and store nothing")
    options = parser.parse_args()
    version = source_version(promptintern_api.__file__, promptintern_operator.__file__, __file__)
    results = Results(options.results, version)
    batches = [] if options.only else [batch for batch in results.documents if batch["seed"] == options.seed]
    done = {batch["batch"] for batch in batches}
    missing = [n for n in range(-(-options.cases // SIZE)) if n not in done]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, prepared(Path(folder), period=options.period) as batch:
        try:
            for number in [0] if options.only else missing:
                numbers = options.only or range(number * SIZE, min((number + 1) * SIZE, options.cases))
                result = asdict(batch.run(options.seed, number, numbers, rate=options.rate, control=options.control))
                batches.append(result)
                print(f"batch {number}: {result['seconds']} s, {len(result['problems'])} problems", flush=True)
                if not options.only:
                    results.add(result | {"seed": options.seed})
        finally:
            if options.log:
                options.log.write_bytes((Path(folder) / "operator-0.log").read_bytes())
    return report(batches)


def report(batches: Sequence[dict[str, Any]]) -> int:
    """Print the figures of all batches, and return 1 if there was a problem."""
    print("\n".join([*_outcome_lines(batches), *_delay_lines(batches)]))
    for name in ("retried", "warnings"):
        for text, count in sum((collections.Counter(batch[name]) for batch in batches), collections.Counter()).items():
            print(f"{name}: {count} x {text}")
    for batch in batches:
        for job, text in batch["unreadable"].items():
            print(f"accepted by the API server, not readable for the operator: {job}: {text[:300]}")
    problems = [f"batch {batch['batch']}: {problem}" for batch in batches for problem in batch["problems"]]
    print("\n".join(problems), file=sys.stderr)
    print(
        f"{sum(sum(counts.values()) for batch in batches for counts in batch['outcomes'].values())} cases in "
        f"{len(batches)} batches; operator memory at most {max((b['peak_mib'] for b in batches), default=0)} MiB; "
        f"longest line of the log {max((b['longest_line'] for b in batches), default=0)} bytes; "
        f"{sum(len(batch['skipped']) for batch in batches)} objects skipped; {len(problems)} problems"
    )
    return 1 if problems else 0


def _outcome_lines(batches: Sequence[dict[str, Any]]) -> Iterator[str]:
    outcomes: collections.defaultdict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for batch in batches:
        for kind, counts in batch["outcomes"].items():
            outcomes[kind].update(counts)
    for kind, counter in sorted(outcomes.items()):
        yield f"{kind}: {counter.total()} cases"
        yield from (f"{count:8} {outcome}" for outcome, count in counter.most_common())


def _delay_lines(batches: Sequence[dict[str, Any]]) -> Iterator[str]:
    for load in ("none", "ordinary", "hostile"):
        for what in ("check", "ray_job"):
            delays = [delay for batch in batches for delay in batch["delays"].get(load, {}).get(what, [])]
            if delays:
                spread = f"median {statistics.median(delays):.2f} s, max {max(delays):.2f} s"
                yield f"load {load}, creation to {what}: {spread} ({len(delays)} jobs of the other tenant)"


if __name__ == "__main__":
    sys.exit(main())
