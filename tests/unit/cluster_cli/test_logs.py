"""Every byte of a log is printed once, wherever it is read."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from promptintern.cluster.api_errors import Forbidden, Unreachable
from promptintern.cluster.logs import READ_SCRIPT, LogReader, bytes_after, parse_output
from promptintern.cluster.objects import Job, Pod
from promptintern.cluster.run_location import RunLocation
from promptintern.errors import Problem

from tests.unit.cluster_cli.documents import EARLIER, condition, stored


def read(folder: Path, *offsets: str) -> list[tuple[str, bytes]]:
    done = subprocess.run(["sh", "-c", READ_SCRIPT, "sh", str(folder), *offsets], capture_output=True, check=True)
    return list(parse_output(done.stdout))


def test_the_script_prints_what_is_new(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == []
    assert read(tmp_path) == []
    (tmp_path / "job-driver-a.log").write_bytes(b"one\ntwo\xff")
    (tmp_path / "raylet.out").write_bytes(b"no")
    assert read(tmp_path) == [("job-driver-a.log", b"one\ntwo\xff")]
    (tmp_path / "job-driver-b.log").write_bytes(b"job-driver-a.log 3\nxyz")
    assert sorted(read(tmp_path, "job-driver-a.log:4")) == [
        ("job-driver-a.log", b"two\xff"),
        ("job-driver-b.log", b"job-driver-a.log 3\nxyz"),
    ]
    assert read(tmp_path, "job-driver-a.log:8", "job-driver-b.log:22") == []


def test_output_that_is_cut_off() -> None:
    assert list(parse_output(b"a.log 10\nabc")) == [("a.log", b"abc")]
    assert list(parse_output(b"a.l")) == []


LONG = b"".join(b"line %d\n" % i for i in range(2000))


@pytest.mark.parametrize(
    ("content", "printed", "fresh"),
    [
        (b"a\na\n", b"a\n", b"a\n"),
        (LONG + b"new", LONG[-4096:], b"new"),
        (LONG[:-500], LONG[-4096:], b""),
        (LONG[-1000:] + b"new", LONG[-4096:], b"new"),
        (b"something else", LONG[-4096:], None),
        (b"x", b"", b"x"),
    ],
)
def test_what_a_stored_tail_adds(content: bytes, printed: bytes, fresh: bytes | None) -> None:
    assert bytes_after(content, printed) == fresh


class FakeCluster:
    """A cluster that plays scenes: each has a job, its head pod, and a change to the driver's log."""

    def __init__(self, folder: Path, scenes: list[Any]) -> None:
        self.folder = folder
        self.scenes = scenes
        self.head: Pod | None = None

    def job(self, name: str) -> Job:
        job, self.head, change = self.scenes[0]
        if len(self.scenes) > 1:
            self.scenes.pop(0)
        if change is not None:
            change()
        if isinstance(job, Exception):
            raise job
        return job  # type: ignore[no-any-return]

    def pods(self, job: str, role: str) -> list[Pod]:
        return [self.head] if self.head and role == "head" else []

    def pod_log(self, pod: str, container: str, *, follow: bool) -> Iterator[bytes]:
        yield b""

    def execute(self, pod: str, container: str, command: Sequence[str]) -> bytes:
        if pod == "sealed":
            raise Forbidden([Problem(where="pod", message="bob may not create pods/exec")])
        return subprocess.run(
            [*command[:4], str(self.folder / pod), *command[5:]], capture_output=True, check=True
        ).stdout


def pod(name: str, ray_job: str) -> Pod:
    return Pod.from_document(
        {
            "metadata": {"name": name, "uid": name, "creationTimestamp": EARLIER},
            "spec": {"containers": [{"name": "ray-head", "env": [{"name": "PROMPTINTERN_RAY_JOB", "value": ray_job}]}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "ray-head", "state": {"running": {}}}]},
        }
    )


def attempts(*outcomes: str | None) -> list[dict[str, Any]]:
    return [
        {"number": n, "rayJobName": f"small-a{n}", "headPods": 1, "outcome": outcome, "message": f"end {n}"}
        for n, outcome in enumerate(outcomes, start=1)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Callable[[], None]]:
    def later(path: str, text: str) -> Callable[[], None]:
        def now() -> None:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            with (tmp_path / path).open("a") as file:
                file.write(text)

        return now

    return later


def follow(folder: Path, scenes: list[Any]) -> tuple[bytes, list[str]]:
    out, notes = bytearray(), []  # type: ignore[var-annotated]

    def stored_run(_: Job) -> RunLocation:
        (folder / "stored").mkdir(exist_ok=True)
        return RunLocation(uri=(folder / "stored").as_uri(), endpoint=None, region=None)

    ticks = iter(range(0, 10_000_000, 100))
    reader = LogReader(
        FakeCluster(folder, scenes),
        out=out.extend,
        note=notes.append,
        locate_run=stored_run,
        sleep=lambda _: None,
        clock=lambda: float(next(ticks)),
    )
    reader.follow("small")
    return bytes(out), notes


def test_following_over_attempts_and_outages(tmp_path: Path, write: Callable[..., Callable[[], None]]) -> None:
    first, second = pod("h1", "small-a1"), pod("h2", "small-a2")
    running, again = stored(attempts=attempts(None)), stored(attempts=attempts("Infrastructure", None))
    over = stored(
        phase="Succeeded",
        attempts=attempts("Infrastructure", "Succeeded"),
        conditions=[condition("Succeeded", "True", "Succeeded", "done")],
    )

    def all_stored() -> None:
        write("stored/logs/small-a1/job-driver-x.log", "one\ntwo\nthree\n")()

    out, notes = follow(
        tmp_path,
        [
            (stored(phase="Checking"), None, None),
            (running, first, write("h1/job-driver-x.log", "one\n")),
            (Unreachable("away"), first, None),
            (running, first, write("h1/job-driver-x.log", "two\n")),
            (again, None, all_stored),
            (again, second, write("h2/job-driver-y.log", "four\n")),
            (over, None, write("stored/logs/small-a2/job-driver-y.log", "four\nfive\n")),
        ],
    )
    assert out == b"one\ntwo\nthree\nfour\nfive\n"
    assert "away; trying again" in notes
    assert "attempt 1 ended (Infrastructure): end 1" in notes


def test_following_without_the_right_to_exec(tmp_path: Path, write: Callable[..., Callable[[], None]]) -> None:
    sealed, running = pod("sealed", "small-a1"), stored(attempts=attempts(None))
    over = stored(phase="Failed", attempts=attempts("Application"))
    log = "stored/logs/small-a1/job-driver-x.log"
    out, notes = follow(
        tmp_path, [(running, sealed, write(log, "one\n")), (running, sealed, write(log, "two\n")), (over, None, None)]
    )
    assert out == b"one\ntwo\n"
    assert [each for each in notes if "may not create pods/exec" in each] == [
        "bob may not create pods/exec; showing the stored log, which is some seconds behind"
    ]
