"""A pod that is about to go: its preStop hook asks for a save through files, and waits until what trains here is done.

Ray tells a worker nothing before its pod ends, and KubeRay nothing to the driver, so pod and processes talk through a
folder that all containers' processes of a pod see. Outside pods, nobody ever leaves.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from promptintern_api.contract import ENV_POD_FOLDER

Role = Literal["driver", "worker"]
"""The part of a training process in its pod."""

_LEAVE = "leave"
_POLL_SECONDS = 0.2


def pod_folder() -> Path | None:
    """The folder, None outside pods."""
    name = os.environ.get(ENV_POD_FOLDER)
    return Path(name) if name else None


def is_leaving() -> bool:
    """Whether this pod is about to go."""
    folder = pod_folder()
    return folder is not None and (folder / _LEAVE).exists()


def announce_leaving(folder: Path) -> None:
    """Have what trains in this pod save, and nothing new begin."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _LEAVE).touch()


def wait_while_leaving() -> None:
    """In a pod that is about to go nothing begins any more: come back only if it does not go after all."""
    while is_leaving():
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def register_process(role: Role) -> Iterator[None]:
    """Note that this process is the ``driver``, or a ``worker``, of this pod."""
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
    """The process id of the pod's driver or worker, None if there is none now."""
    try:
        process = int(_pid_file(folder, role).read_text())
        os.kill(process, 0)
    except (OSError, ValueError):
        return None
    return process


def wait_for_exit(folder: Path, role: Role, seconds: float) -> bool:
    """Wait until the pod has no such process; False after ``seconds``."""
    deadline = time.monotonic() + seconds
    while process_id(folder, role) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _pid_file(folder: Path, role: Role) -> Path:
    return folder / f"{role}.pid"
