"""The preStop hook: it asks what trains in this pod to save, and waits for it.

KubeRay deletes the pods of a head and its workers without a word to the driver, so each pod asks for itself: the head
by a signal to the driver, which stops the whole run, a worker by a file, on which all workers save and begin elsewhere.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from promptintern.leaving import ask_to_leave, process_of, wait_until_gone

_EXIT_CODE_SECONDS = 7.0


def save(folder: Path, *, role: str, seconds: float) -> bool:
    """Have the pod's driver (``head``) or worker save; False if it was not done within ``seconds``."""
    ask_to_leave(folder)
    if role == "worker":
        return wait_until_gone(folder, "worker", seconds)
    deadline = time.monotonic() + seconds
    driver = process_of(folder, "driver")
    if driver is None:
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(driver, signal.SIGTERM)
    is_gone = wait_until_gone(folder, "driver", deadline - time.monotonic())
    # KubeRay asks every 3 s how the job stands, and never again once the head is gone.
    time.sleep(max(0.0, min(_EXIT_CODE_SECONDS, deadline - time.monotonic())))
    return is_gone
