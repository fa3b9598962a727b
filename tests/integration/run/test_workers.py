"""Two workers on a local Ray: they train as one process does, one is killed, and a stop comes while they answer."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.run.process import adapters, finish, run_command, run_folder, start_command, write_job
from tests.integration.run.ray_cluster import ray_cluster
from tests.integration.run.reference import EPOCHS, check_trajectory

FOR_USERS = re.compile(
    r"starting Ray with 2 workers|(?:stage|arm) [\w/]+(?:: | continue)|saved at |timing |note: |warning: "
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("job"), epochs=EPOCHS)


@pytest.fixture(scope="module")
def undisturbed(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the runs folder of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    ended = run_command(job, workdir, "--workers", "2")
    assert ended.code == 0, ended.text
    return workdir


def training_workers(driver: int) -> list[int]:
    """Return the process ids of the Ray workers that ``driver`` started."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}

    def below(pid: int) -> bool:
        while pid in parents:
            if pid == driver:
                return True
            pid = parents[pid]
        return False

    return [int(row[0]) for row in rows if len(row) == 3 and "RayTrainWorker" in row[2] and below(int(row[0]))]


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def test_they_train_as_one_process_does(undisturbed: Path) -> None:
    check_trajectory(undisturbed)


def test_a_killed_worker_is_replaced_under_a_new_term(job: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The stage is trained again, because its first checkpoint is not due yet. Tests on a cluster kill later."""
    process = start_command(job, tmp_path, "--workers", "2")
    wait_for(lambda: (f := run_folder(tmp_path)) and (f / "stages/0/manifest.json").exists())
    os.kill(training_workers(process.pid)[0], signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 0, ended.text
    assert "warning: worker 0 failed: " in ended.text or "warning: worker 1 failed: " in ended.text
    assert adapters(tmp_path) == adapters(undisturbed)
    folder = run_folder(tmp_path)
    assert folder is not None
    assert len(list(folder.glob("terms/*.json"))) == 2
    assert json.loads((folder / "stages/2/manifest.json").read_text())["term"] == 2


def test_the_log_in_a_ray_cluster_has_only_lines_for_users(job: Path, tmp_path: Path) -> None:
    """The driver prints the output of all processes of the cluster, as in a job's pods. A stop causes no noise."""
    with ray_cluster(cpus=3) as environment:
        process = start_command(job, tmp_path / "runs", "--workers", "2", **environment)
        wait_for(lambda: (f := run_folder(tmp_path / "runs")) and (f / "stages/0/manifest.json").exists())
        process.send_signal(signal.SIGTERM)
        stopped = finish(process)
        assert stopped.code == 143, stopped.text
        finished = run_command(job, tmp_path / "runs", "--workers", "2", **environment)
    assert finished.code == 0, finished.text
    log = (stopped.text + finished.text).partition("\n\n")[0]  # the report's table follows
    assert [line for line in log.splitlines() if not FOR_USERS.match(line)] == []


def test_a_stop_while_two_workers_answer_is_heeded(job: Path, tmp_path: Path) -> None:
    """The answers come in many small batches, and the stop must not wait for all of them."""
    slow = tmp_path / "job.yaml"
    text = job.read_text().replace("maxNewTokens: 4", "maxNewTokens: 200\n    batchSize: 1")
    slow.write_text(text)
    rows = [json.dumps({"query": f"what is {n}", "answer": str(n)}) for n in range(400)]
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text("".join(f"{row}\n" for row in rows))
    process = start_command(slow, tmp_path / "runs", "--workers", "2", "--set", f"data.eval.uri={held_out}")
    output = ""
    assert process.stdout is not None
    while "answered" not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 143, output + ended.text
    assert "saved at arm FullPrompt" in ended.text
    assert "answered 400/400" not in ended.text
