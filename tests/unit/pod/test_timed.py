"""A driver's log: each line has a time, and lines of threads do not mix."""

import io
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from promptintern.pod.timed import TimedStream

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def timed(*writes: str) -> list[str]:
    """Return the lines that a stream has after ``writes`` and a flush."""
    file = io.StringIO()
    stream = TimedStream(file)
    for text in writes:
        stream.write(text)
    stream.flush()
    return file.getvalue().splitlines()


@pytest.mark.parametrize("writes", [("a\nb\n",), ("a\n", "b\n"), ("a", "\n", "b", "\n"), ("a\nb",)])
def test_each_line_begins_with_the_time(writes: tuple[str, ...]) -> None:
    first, second = timed(*writes)
    assert re.fullmatch(f"{TIME} a", first) and re.fullmatch(f"{TIME} b", second)


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-02T03:04:05.678901Z [info     ] retry",  # our own log of retries
        "2026-01-02 03:04:05,678\tERROR worker.py:1 -- lost",  # Ray's log
        "[2026-01-02 03:04:05,678 E 22817 22817] rpc_client.h:153: lost",  # the log of Ray's C++ part
        "",
    ],
)
def test_a_line_that_has_a_time_gets_no_second_one(line: str) -> None:
    assert timed(f"{line}\n") == [line]


def test_lines_of_threads_do_not_mix() -> None:
    file = io.StringIO()
    stream, ready = TimedStream(file), threading.Barrier(2)

    def write(text: str) -> None:
        for _ in range(200):
            ready.wait()
            stream.write(text)
            stream.write("\n")

    threads = [threading.Thread(target=write, args=(text,)) for text in ("a" * 20, "b" * 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line.split(" ", 1)[1] for line in file.getvalue().splitlines()]
    assert sorted(lines) == ["a" * 20] * 200 + ["b" * 20] * 200


def test_the_driver_in_a_pod_prints_times(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "promptintern.cli.app", "pod", "drive", str(tmp_path / "missing.yaml")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert re.match(f"{TIME} error: .*missing.yaml", ran.stderr), ran.stderr


def test_a_process_prints_all_its_lines_with_times() -> None:
    """The last line is printed at the end of the process, and the traceback of its error by the interpreter."""
    program = (
        "import sys; from promptintern.pod.timed import print_times; print_times(); print('out'); "
        "print('err', file=sys.stderr); print('last', end=''); raise ValueError('wrong')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert re.fullmatch(f"{TIME} out\n{TIME} last\n", ran.stdout)
    lines = ran.stderr.splitlines()
    assert all(re.match(f"{TIME} ", line) for line in lines)
    assert lines[0].endswith("err") and lines[-1].endswith("ValueError: wrong")
