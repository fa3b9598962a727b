"""The preStop hook, which asks the trainer in this pod to save and waits until the trainer has ended.

KubeRay deletes the pods of a Ray cluster without notifying the driver, so every pod has a hook. The hook of the head
pod sends the driver a signal, which stops the whole run. The hook of a worker pod writes a file, which makes all
workers save and restart elsewhere.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from promptintern_api.contract import PodRole

from promptintern.leaving import announce_leaving, processes, wait_for_exit

_EXIT_CODE_SECONDS = 7.0
"""The number of seconds after the driver's end within which KubeRay reads the exit code of the driver."""


def save(folder: Path, *, role: str, seconds: float) -> bool:
    """Ask the pod's driver (``role`` is ``head``) or workers to save, and wait until they have ended.

    Return False if one has not ended after ``seconds``.
    """
    announce_leaving(folder)
    if role == PodRole.WORKER:
        return wait_for_exit(folder, "worker", seconds)
    deadline = time.monotonic() + seconds
    drivers = processes(folder, "driver")
    if not drivers:
        return True
    for driver in drivers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(driver, signal.SIGTERM)
    is_gone = wait_for_exit(folder, "driver", deadline - time.monotonic())
    # KubeRay polls the job's state every 3 s, and cannot do so once the head pod is gone.
    time.sleep(max(0.0, min(_EXIT_CODE_SECONDS, deadline - time.monotonic())))
    return is_gone
