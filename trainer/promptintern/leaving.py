"""Saving before a pod is deleted: the preStop hook asks the pod's driver or worker to save, and waits for its exit.

Neither Ray nor KubeRay warns workers or the driver before their pod is deleted. The hook and the processes therefore
communicate through files in a folder that all containers of the pod share. Outside pods, ``is_leaving`` always returns
False.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from promptintern_api.contract import ENV_POD_FOLDER

Role = Literal["driver", "worker"]
"""The role of a process in a run: the driver starts the workers, and a worker trains."""

_LEAVE = "leave"
_POLL_SECONDS = 0.2


def pod_folder() -> Path | None:
    """Return the folder that the containers of this pod share, or None outside pods."""
    name = os.environ.get(ENV_POD_FOLDER)
    return Path(name) if name else None


def is_leaving() -> bool:
    """Return whether this pod is about to be deleted."""
    folder = pod_folder()
    return folder is not None and (folder / _LEAVE).exists()


def announce_leaving(folder: Path) -> None:
    """Ask the processes of this pod to save, and keep new ones from starting work, by a file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _LEAVE).touch()


def wait_while_leaving() -> None:
    """Block while this pod is about to be deleted, so that no new work starts in it."""
    while is_leaving():
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def register_process(role: Role) -> Iterator[None]:
    """Register this process as the pod's driver or worker for the duration of the block."""
    folder = pod_folder()
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = _pid_file(folder, role)
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.write_text(str(os.getpid()))
    unfinished.replace(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if file.read_text() == str(os.getpid()):
                file.unlink()


def process_id(folder: Path, role: Role) -> int | None:
    """Return the process id of the pod's driver or worker, or None if no such process is running."""
    try:
        process = int(_pid_file(folder, role).read_text())
        os.kill(process, 0)
    except (OSError, ValueError):
        return None
    return process


def wait_for_exit(folder: Path, role: Role, seconds: float) -> bool:
    """Wait until the pod's driver or worker has exited. Return False if it is still running after ``seconds``."""
    deadline = time.monotonic() + seconds
    while process_id(folder, role) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _pid_file(folder: Path, role: Role) -> Path:
    return folder / f"{role}.pid"
