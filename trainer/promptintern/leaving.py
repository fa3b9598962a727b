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
    """Register this process as the pod's driver, or as one of its workers, for the duration of the block."""
    folder = pod_folder()
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = process_file(folder, role, os.getpid())
    file.touch()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def processes(folder: Path, role: Role) -> list[int]:
    """Return the process ids of the pod's driver or workers that are running."""
    ids = [int(file.name.split(".")[1]) for file in folder.glob(process_file(folder, role, "*").name)]
    return [each for each in ids if _is_running(each)]


def wait_for_exit(folder: Path, role: Role, seconds: float) -> bool:
    """Wait until the pod's driver or workers have exited. Return False if one still runs after ``seconds``."""
    deadline = time.monotonic() + seconds
    while processes(folder, role):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def process_file(folder: Path, role: Role, process: int | str) -> Path:
    """Return the file that says that ``process`` has the role ``role``. A process that was killed leaves it behind."""
    return folder / f"{role}.{process}.pid"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True
