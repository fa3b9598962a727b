"""The process in which vLLM runs: documents go in and come out, and its end is told with its reason."""

import json
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from promptintern.answering.vllm.environment import FIELD, vllm_environment
from promptintern.errors import RunFailed

_SERVER = Path(__file__).with_name("server.py")
_LOG_BYTES = 8192
"""The size of the end of vLLM's log in which the reason for its end is sought."""
_REASON_CHARACTERS = 500


class VllmProcess:
    """A process with a vLLM engine, which ends with the trainer's, or at ``end``."""

    def __init__(self, python: Path, settings: Mapping[str, Any], *, device: torch.device, files: Path) -> None:
        """Start the process, and wait until its engine is ready.

        Args:
            python: The Python program of the environment that has vLLM.
            settings: The arguments of vLLM's engine.
            device: The device of the engine.
            files: The folder to which vLLM may write.

        Raises:
            RunFailed: if the engine does not start.
        """
        began = time.perf_counter()
        self._log = files / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-I", _SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=vllm_environment(os.environ, device, files),
                text=True,
                start_new_session=True,
            )
        self.end = weakref.finalize(self, _end, self._process)
        """Ends the process and its children, which frees their memory."""
        try:
            self.send(settings)
            self.receive()
        except BaseException:
            self.end()
            raise
        self.start_seconds = time.perf_counter() - began

    def send(self, document: Mapping[str, Any]) -> None:
        """Send a document.

        Raises:
            RunFailed: if the process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            while True:  # until the last line, which has the reason, or the end
                self.receive()

    def receive(self) -> dict[str, Any]:
        """Return the next document.

        Raises:
            RunFailed: if the document is an error, or the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        document: dict[str, Any] = json.loads(line) if line else {"error": ""}
        if "error" in document:
            raise self._failure(str(document["error"]))
        return document

    def _failure(self, reason: str) -> RunFailed:
        log = self._log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").split("\n")
        last = next((line for line in reversed(log) if line.strip()), "it wrote nothing")
        why = " ".join((reason.strip() or last).split())[:_REASON_CHARACTERS]
        return RunFailed(f"vLLM ended ({why}); {FIELD}: PyTorch answers without it, and starts a new run")


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what could not be sent is still in the pipe's buffer
            if pipe is not None:
                pipe.close()
