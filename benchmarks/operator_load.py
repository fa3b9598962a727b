"""Measures the cost and speed of the operator with many jobs, on a real kube-apiserver with fake KubeRay and kubelets.

    python benchmarks/operator_load.py [--jobs 1000] [--rate 10] [--running 20] [--large 0] [--json FILE]

Jobs are created at a steady rate. Each job is checked at once (the fake preflight takes no time), gets a RayJob with a
head and a worker pod, trains for --running seconds and ends. The operator is a process with the chart's permissions and
settings. With --large, that many of the jobs have prompts of the largest allowed size. After all jobs have ended, the
operator is killed and started again, and then all jobs are deleted. The API server, etcd, the fakes and this program
share the machine with the operator.

The module is not called operator.py, because that name would hide the standard library's module from the other
benchmarks.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from promptintern_api.prompt import MAX_PROMPT_BYTES

from tests.cluster import programs
from tests.cluster.client import wait_for
from tests.integration.operator.kuberay import Life
from tests.integration.operator.place import Place, Tenant, place_in
from tests.integration.operator.process import Operator, cpu_seconds, memory_mib
from tests.integration.operator.requests import JOBS

NAMESPACES = 10
TARGET_P99_SECONDS, TARGET_MIB = 2.0, 300.0
_ALL_JOBS = JOBS.replace("/namespaces/{}", "")
_SETTLE_SECONDS = 8.0
_MEMORY_SECONDS = 130.0
"""The wait in seconds before the last memory measurement. It is a little longer than the interval at which the operator
returns free memory to the system."""


@dataclass(kw_only=True)
class Figures:
    """The measurements of the operator.

    Times are in seconds, unless the name of a field has another unit. Memory is resident memory in MiB.
    """

    jobs: int
    large: int
    requested_rate: float
    rate: float = 0.0
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    load_after: float = 0.0
    creation_to_check: dict[str, float] = field(default_factory=dict)
    creation_to_ray_job: dict[str, float] = field(default_factory=dict)
    acceptance_to_ray_job: dict[str, float] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    seconds_until_all_ended: float = 0.0
    changes: int = 0
    """The number of changes to jobs, RayJobs, preflights and pods that watches reported before all jobs had ended."""
    changes_per_second: float = 0.0
    reconciles_per_job: float = 0.0
    reconcile_ms: float = 0.0
    queue_ms: float = 0.0
    requests_per_job: dict[str, float] = field(default_factory=dict)
    fakes_requests_per_job: float = 0.0
    """The number of writes per job by the fakes of KubeRay, the kubelets and the Job controller."""
    cpu_ms_per_job: dict[str, float] = field(default_factory=dict)
    """The CPU time per job in milliseconds, by process. The fakes run in the process of the benchmark."""
    memory: dict[str, float] = field(default_factory=dict)
    seconds_to_take_over: float = 0.0
    """The time from the start of a new operator process until it has reconciled every job."""
    failures: int = 0
    """The number of reconciliations that failed and were retried."""


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=10, help="jobs created per second")
    parser.add_argument("--running", type=float, default=20, help="seconds for which each job trains")
    parser.add_argument("--large", type=int, default=0, help="jobs whose prompts have the largest allowed size")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--log", type=Path, help="write the operator's log here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, place_in(Path(folder)) as place:
        place.kuberay.usual_life = Life(starting=1, running=arguments.running)
        operator = place.operator()
        try:
            figures = measure(place, operator, arguments.jobs, arguments.rate, arguments.large)
        finally:
            if arguments.log:
                arguments.log.write_text(operator.text())
    document = {"machine": machine(), **asdict(figures)}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2))
    print(report(figures))
    print(json.dumps(document["machine"]))


def measure(place: Place, operator: Operator, jobs: int, rate: float, large: int) -> Figures:
    """Create and run ``jobs`` jobs, of which ``large`` are large, restart the operator, delete the jobs, and return the
    measurements.
    """
    figures = Figures(jobs=jobs, requested_rate=rate, large=large)
    operator.start()
    operator.wait_until_leading(60)
    time.sleep(_SETTLE_SECONDS)
    figures.memory["0 jobs"] = operator.rss_mib
    requests, cpu = operator.total("promptintern_api_requests_total"), cpu_by_process(place, operator)
    before = operator.metrics()
    tenants = [place.namespace() for _ in range(NAMESPACES)]

    began = time.monotonic()
    created = create(figures, tenants, operator, jobs, rate)
    figures.rate = jobs / (time.monotonic() - began)
    echo(f"created {jobs} jobs at {figures.rate:.1f} per second")
    wait_for(lambda: _has_ended(place, operator, created), 900 + jobs, "the end of all jobs")
    figures.seconds_until_all_ended = time.monotonic() - began
    spent = cpu_by_process(place, operator)
    figures.cpu_ms_per_job = {name: 1000 * (spent[name] - cpu[name]) / jobs for name in spent}
    figures.cpu_ms_per_job["all"] = sum(figures.cpu_ms_per_job.values())
    figures.fakes_requests_per_job = place.kuberay.requests / jobs
    figures.memory[f"{jobs} jobs"] = operator.rss_mib
    figures.memory["peak"] = operator.peak_mib
    figures.memory["etcd"], figures.memory["kube-apiserver"] = server_memory(place)
    figures.load_after = os.getloadavg()[0]
    figures.ended = dict(Counter(str(job["status"]["phase"]) for job in place.requests.items(_ALL_JOBS)))
    echo(f"all jobs ended: {figures.ended}")

    seen_at, checked_at = place.kuberay.seen_at, place.kuberay.checked_at
    ray_jobs = {key: seen_at["RayJob", key[0], f"{key[1]}-a1"] for key in created}
    figures.creation_to_check = quantiles([seen_at["Job", k[0], f"{k[1]}-check-1"] - created[k] for k in created])
    figures.creation_to_ray_job = quantiles([ray_jobs[key] - created[key] for key in created])
    # The response to the fake's last write may arrive after the operator has reacted to that write.
    figures.acceptance_to_ray_job = quantiles([max(ray_jobs[key] - checked_at[key], 0.0) for key in created])
    figures.changes = place.kuberay.counts.total()
    figures.changes_per_second = figures.changes / figures.seconds_until_all_ended
    after = operator.metrics()

    def increase(*key: str) -> float:
        return after.get(key, 0.0) - before.get(key, 0.0)

    reconciles = increase("promptintern_reconcile_seconds_count")
    figures.reconciles_per_job = reconciles / jobs
    figures.reconcile_ms = 1000 * increase("promptintern_reconcile_seconds_sum") / reconciles
    figures.queue_ms = (
        1000 * increase("promptintern_queue_wait_seconds_sum") / increase("promptintern_queue_wait_seconds_count")
    )
    by_verb: Counter[str] = Counter()
    for key in after:
        if key[0] == "promptintern_api_requests_total":
            by_verb[" ".join(key[1:])] += increase(*key)  # type: ignore[assignment]
    figures.requests_per_job = {verb: count / jobs for verb, count in by_verb.most_common()}
    figures.requests_per_job["all"] = (operator.total("promptintern_api_requests_total") - requests) / jobs
    figures.failures = len(operator.log_lines("reconcile failed"))

    restart_and_delete(figures, place, operator, tenants)
    return figures


def _has_ended(place: Place, operator: Operator, created: dict[tuple[str, str], float]) -> bool:
    """Return whether all jobs have ended.

    Raises:
        RuntimeError: if the operator has ended, for example because the machine was too busy to renew its lease.
    """
    if not operator.alive:
        raise RuntimeError(f"the operator ended: {operator.text()[-2000:]}")
    return place.kuberay.ended >= created.keys()


def restart_and_delete(figures: Figures, place: Place, operator: Operator, tenants: list[Tenant]) -> None:
    """Restart the operator while all jobs exist, then delete them, and record the restart time and the memory."""
    jobs = figures.jobs
    operator.kill()
    began = time.monotonic()
    operator.start()
    wait_for(
        lambda: operator.total("promptintern_reconciles_total") >= jobs, 600, "the new process to reconcile all jobs"
    )
    figures.seconds_to_take_over = time.monotonic() - began
    time.sleep(_SETTLE_SECONDS)
    figures.memory[f"{jobs} jobs, after a restart"] = operator.rss_mib
    figures.memory["peak after the restart"] = operator.peak_mib
    echo(f"took over after {figures.seconds_to_take_over:.1f} s")

    for tenant in tenants:
        place.requests.ask("DELETE", JOBS.format(tenant.name))
    wait_for(lambda: not any(tenant.ray_jobs() for tenant in tenants), 300, "the deletion of all RayJobs")
    wait_for(lambda: operator.total("promptintern_jobs") == 0, 120, "the operator to forget all jobs")
    time.sleep(_MEMORY_SECONDS)
    figures.memory["after their deletion"] = operator.rss_mib


def create(
    figures: Figures, tenants: list[Tenant], operator: Operator, jobs: int, rate: float
) -> dict[tuple[str, str], float]:
    """Create ``jobs`` jobs at ``rate`` per second, and return the time of each creation by namespace and name."""
    created: dict[tuple[str, str], float] = {}
    start = time.monotonic()
    for number in range(jobs):
        tenant, name = tenants[number % len(tenants)], f"job-{number}"
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        is_large = number * figures.large // jobs != (number + 1) * figures.large // jobs
        spec = {"prompt__template": large_template(number)} if is_large else {}
        created[tenant.name, name] = time.monotonic()
        tenant.submit(name, **spec)
        if number + 1 == 100:
            figures.memory["100 jobs"] = operator.rss_mib
    return created


def large_template(seed: int) -> str:
    """Return a random template of about the largest allowed size, in letters that have four bytes each."""
    letters = random.Random(seed).choices(range(0x1F300, 0x1F600), k=(MAX_PROMPT_BYTES - 64) // 4)
    return "{examples}{query}" + "".join(map(chr, letters))


def server_memory(place: Place) -> tuple[float, float]:
    """Return the resident memory of etcd and of the API server in MiB."""
    pids = [place.server.processes.pid(name) for name in ("etcd", "kube-apiserver")]
    etcd, server = (memory_mib(pid, "VmRSS") if pid is not None else 0.0 for pid in pids)
    return etcd, server


def cpu_by_process(place: Place, operator: Operator) -> dict[str, float]:
    """Return the CPU time in seconds used so far by the operator, the API server, etcd and this process."""
    server = {name: place.server.processes.pid(name) for name in ("kube-apiserver", "etcd")}
    pids = {"operator": operator.process.pid, **server, "fakes and benchmark": os.getpid()}
    return {name: cpu_seconds(pid) for name, pid in pids.items() if pid is not None}


def quantiles(values: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum of ``values``."""
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered),
        "p99": ordered[math.ceil(0.99 * len(ordered)) - 1],
        "max": ordered[-1],
    }


def machine() -> dict[str, str]:
    """Return the CPU and the versions of Python and of the measured programs, as text by name."""
    info = Path("/proc/cpuinfo")
    names = [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
    packages = ("promptintern-operator", "kopf", "kubernetes", "aiohttp")
    return {
        "cpu": f"{names[0] if names else platform.processor()} x {os.cpu_count()}",
        "python": platform.python_version(),
        "kube-apiserver": programs.version("k8s.io/kubernetes"),
        "etcd": programs.version("go.etcd.io/etcd/server/v3"),
        "kuberay (CRD)": programs.version("github.com/ray-project/kuberay/ray-operator"),
        **{name: version(name) for name in packages},
    }


def report(figures: Figures) -> str:
    """Return the measurements as a table in plain text."""

    def line(name: str, values: dict[str, float], unit: str = "s") -> str:
        return f"{name:<34}" + "  ".join(f"{key} {value:.2f} {unit}" for key, value in values.items())

    p99 = figures.creation_to_ray_job["p99"]
    top = max(value for name, value in figures.memory.items() if name not in ("etcd", "kube-apiserver"))
    return "\n".join(
        [
            f"{figures.jobs} jobs ({figures.large} of them large) at {figures.rate:.1f}/s (requested: "
            f"{figures.requested_rate:.1f}/s); load average of the machine {figures.load_before:.1f} before, "
            f"{figures.load_after:.1f} after",
            line("creation to preflight Job", figures.creation_to_check),
            line("creation to RayJob", figures.creation_to_ray_job),
            line("preflight's end to RayJob", figures.acceptance_to_ray_job),
            f"{'changes in the watches':<34}{figures.changes}, {figures.changes_per_second:.0f}/s",
            f"{'reconciliations per job':<34}{figures.reconciles_per_job:.1f}, each {figures.reconcile_ms:.1f} ms "
            f"after {figures.queue_ms:.1f} ms in the queue; {figures.failures} were retried",
            line("API requests per job", figures.requests_per_job, ""),
            f"{'requests of the fakes per job':<34}{figures.fakes_requests_per_job:.1f}",
            line("CPU time per job", figures.cpu_ms_per_job, "ms"),
            line("memory", figures.memory, "MiB"),
            f"{'a new process reconciled all after':<34}{figures.seconds_to_take_over:.1f} s",
            f"{'ends':<34}{figures.ended}, all after {figures.seconds_until_all_ended:.0f} s",
            f"targets: p99 {p99:.2f} s < {TARGET_P99_SECONDS} s: {verdict(p99 < TARGET_P99_SECONDS)}; memory "
            f"{top:.0f} MiB < {TARGET_MIB:.0f} MiB: {verdict(top < TARGET_MIB)}",
        ]
    )


def verdict(is_met: bool) -> str:
    """Return "met" or "missed"."""
    return "met" if is_met else "missed"


def echo(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
