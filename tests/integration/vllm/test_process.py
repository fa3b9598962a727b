"""No process of vLLM outlives its trainer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from promptintern.answering.vllm.process import VllmProcess

_READY = """
import json, subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print(json.dumps({"pids": [child.pid]}), flush=True)
sys.stdin.read()
"""
_TRAINER = """
import json, os, sys
from pathlib import Path
import torch
from promptintern.answering.vllm.process import VllmProcess
python, model, files = sys.argv[1:]
settings = {"model": model, "dtype": "float32", "enable_lora": True, "max_lora_rank": 8, "max_loras": 1}
settings |= {"generation_config": "vllm", "disable_log_stats": True, "enforce_eager": True}
settings |= {"max_model_len": 256, "max_num_seqs": 4}
process = VllmProcess(Path(python), settings, device=torch.device("cpu"), files=Path(files))
request = {"number": 0, "ids": [4], "maxTokens": 1, "seed": None}
process.send({"adapter": None, "sampling": {"temperature": 0.0}, "rows": [request]})
print(process._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def wait_for_end(pid: int) -> None:
    """Wait until a process is gone, or only its exit code is left."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} still runs")


def test_the_processes_that_vllm_started_end_with_it(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{_READY}")
    python.chmod(0o755)
    seen: list[int] = []
    receive = VllmProcess.receive

    class Watched(VllmProcess):
        def receive(self) -> dict[str, list[int]]:
            seen.extend((document := receive(self))["pids"])
            return document

    process = Watched(python, {}, device=torch.device("cpu"), files=tmp_path)
    (child,) = seen
    os.kill(child, 0)
    process.end()
    wait_for_end(child)


def test_vllm_ends_in_the_midst_of_a_step_after_its_trainer_was_killed(
    vllm_python: Path, model: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _TRAINER, vllm_python, model, tmp_path]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -9, killed.stderr
    wait_for_end(int(killed.stdout))
