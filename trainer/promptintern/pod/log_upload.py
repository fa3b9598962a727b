"""The log sidecar of a Ray pod, which uploads the tails of the logs of Ray, the driver and the workers to storage.

The driver's log contains the workers' output, but not why a worker's process or its Ray node died.
"""

import threading
from pathlib import Path

from promptintern_api.contract import DRIVER_LOG_PREFIX, RAY_LOGS, PodRole

from promptintern.errors import RunFailed, UserError
from promptintern.log import get_logger
from promptintern.storage.store import Store

_PATTERNS = {
    PodRole.HEAD: (f"{DRIVER_LOG_PREFIX}*.log", "gcs_server.*", "raylet.*", "python-core-driver-*.log"),
    PodRole.WORKER: ("raylet.*", "worker-*.out", "worker-*.err"),
}
TAIL_BYTES = 1 << 20
SECONDS_BETWEEN = 15.0
_log = get_logger("promptintern.pod")


def upload_logs(
    store: Store,
    stop: threading.Event,
    *,
    role: PodRole,
    logs: Path = Path(RAY_LOGS),
    seconds: float = SECONDS_BETWEEN,
) -> None:
    """Upload the tails of changed logs every ``seconds`` until ``stop`` is set, and then once more.

    Storage errors are only logged.

    Args:
        store: The folder for the logs of the pod.
        stop: The event that ends the uploads.
        role: The role of the pod, which decides which logs are uploaded.
        logs: Ray's log folder.
        seconds: The number of seconds between two uploads.
    """
    uploaded: dict[str, tuple[int, int]] = {}
    while True:
        is_last = stop.wait(seconds)
        for path in sorted({path for pattern in _PATTERNS[role] for path in logs.glob(pattern)}):
            _upload(path, store, uploaded)
        if is_last:
            return


def _upload(path: Path, store: Store, uploaded: dict[str, tuple[int, int]]) -> None:
    try:
        stat = path.stat()
        state = (stat.st_size, stat.st_mtime_ns)
        if stat.st_size == 0 or uploaded.get(path.name) == state:
            return
        store.write(path.name, tail(path))
        uploaded[path.name] = state
    except (OSError, UserError, RunFailed) as error:
        _log.warning("log not uploaded", file=path.name, error=str(error).splitlines()[0])


def tail(path: Path, size: int = TAIL_BYTES) -> bytes:
    """Return the whole lines in the last ``size`` bytes of the file ``path``."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - size))
        content = file.read()
    return content if length <= size else content[content.find(b"\n") + 1 :]
