"""Reading the log of a job's trainer: from the head pod while the pod exists, and from the run's storage afterwards."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from promptintern_api.contract import (
    CHECK_CONTAINER,
    DRIVER_LOG_PREFIX,
    HEAD_CONTAINER,
    LOGS_FOLDER,
    RAY_LOGS,
    PodRole,
)
from promptintern_api.status import AttemptStatus

from promptintern.cluster import messages
from promptintern.cluster.api_errors import Forbidden, NotFound, Unreachable
from promptintern.cluster.objects import Job, Pod, newest
from promptintern.cluster.run_location import RunLocation
from promptintern.errors import RunFailed, UserError

_POLL_SECONDS, _STORED_SECONDS = 2.0, 15.0
_PATIENCE_SECONDS = 600.0
_SHUTDOWN_SECONDS = 30.0
_ANCHOR_BYTES = 4096
"""The number of the last printed bytes that are kept, to find in a stored tail of the log where printing continues."""
_MIN_ANCHOR_BYTES = 128
"""The length in bytes from which a piece of a log is assumed to occur only once in the log."""
_MAX_READ_BYTES = 4 << 20
READ_SCRIPT = rf"""cd "$1" 2>/dev/null || exit 0
shift
for f in $(ls -tr {DRIVER_LOG_PREFIX}*.log 2>/dev/null); do
  from=0
  for known in "$@"; do case $known in "$f:"*) from=${{known##*:}};; esac; done
  bytes=$(( $(wc -c < "$f") - from ))
  [ "$bytes" -gt 0 ] || continue
  [ "$bytes" -le {_MAX_READ_BYTES} ] || bytes={_MAX_READ_BYTES}
  printf '%s %d\n' "$f" "$bytes"
  tail -c +$(( from + 1 )) "$f" | head -c "$bytes"
done"""
"""The shell script that prints the name, the number of new bytes, and the new bytes of every driver log. The arguments
are the folder, and ``NAME:OFFSET`` for each log that was read before. The script does not follow the files, because it
would then keep running in the pod after the connection has broken."""


class LogClient(Protocol):
    """The part of a cluster client that ``LogReader`` needs."""

    def job(self, name: str) -> Job: ...

    def pods(self, job: str, role: str) -> list[Pod]: ...

    def pod_log(self, pod: str, container: str, *, follow: bool) -> Iterator[bytes]: ...

    def execute(self, pod: str, container: str, command: Sequence[str]) -> bytes: ...


@dataclass(kw_only=True)
class _Position:
    """The position in a log file up to which the file was printed, with the last bytes before it."""

    offset: int = 0
    tail: bytes = b""


class LogReader:
    """A reader that prints a job's logs, each byte only once.

    Args:
        cluster: The job's cluster.
        out: The function that receives the bytes of the log.
        note: The function that receives remarks for the user, such as that a pod is not running yet.
        locate_run: The function that returns the location of the job's run.
        sleep: The function that waits for a number of seconds.
        clock: The function that returns a monotonic time in seconds.
    """

    def __init__(
        self,
        cluster: LogClient,
        *,
        out: Callable[[bytes], None],
        note: Callable[[str], None],
        locate_run: Callable[[Job], RunLocation],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._out = out
        self._note = note
        self._locate_run = locate_run
        self._sleep = sleep
        self._clock = clock
        self._positions: dict[tuple[str, str], _Position] = {}
        self._noted: set[str] = set()
        self._current_file: tuple[str, str] | None = None
        self._no_exec = False
        self._next_stored = 0.0

    # Showing the log once

    def show(self, name: str, number: int | None = None) -> None:
        """Print the log of attempt ``number`` (default: the newest), or of the preflight check if there is no attempt.

        Raises:
            UserError: if the job or attempt does not exist, or its stored log cannot be read.
            RunFailed: if the storage or the API server does not answer.
        """
        job = self._cluster.job(name)
        attempt = _select_attempt(job, number)
        if attempt is None:
            self._show_check(job)
            return
        head = self._head(job, attempt)
        if head is None or not self._read_head(head, attempt):
            self._read_stored(job, attempt)
        if not self._has_printed(attempt):
            self._note_why_empty(job, attempt, head)
        elif attempt.outcome is not None:
            self._note_outcome(attempt)

    # Following the log

    def follow(self, name: str, number: int | None = None) -> None:
        """Print the log as it grows, across all attempts and head pods, until the job (or attempt ``number``) ends."""
        lost_since: float | None = None
        job: Job | None = None
        while True:
            try:
                job = self._cluster.job(name)
                if lost_since is not None:
                    self._note("the API server answers again")
                    lost_since = None
                if self._follow_once(job, number):
                    return
            except NotFound:
                if job is None:
                    raise
                self._note(f"job {name} was deleted")
                return
            except Unreachable as error:
                if job is None or (lost_since is not None and self._clock() - lost_since > _PATIENCE_SECONDS):
                    raise
                if lost_since is None:
                    lost_since = self._clock()
                    self._note(f"{error}; trying again")
            self._sleep(_POLL_SECONDS)

    def _follow_once(self, job: Job, number: int | None) -> bool:
        """Print the part of the log that was not printed yet. Return whether the log has been printed to its end."""
        attempt = _select_attempt(job, number)
        if attempt is None:
            if job.is_settled:
                self._show_check(job)
                return True
            self._follow_check(job)
            return False
        for earlier in job.status.attempts if number is None else ():
            if earlier.number < attempt.number and self._has_printed(earlier):
                self._finish(job, earlier)
        head = self._head(job, attempt)
        if attempt.outcome is not None:
            self._wait_for_shutdown(job, attempt, head)
            self._finish(job, attempt)
            if number is None and not job.is_over:
                self._note_once(f"waiting for attempt {attempt.number + 1}" if not job.spec.get("suspend") else "")
            return job.is_over or number is not None
        if head is not None and HEAD_CONTAINER in head.running_containers:
            self._read_head(head, attempt)
        elif head is not None:
            self._note_once(f"pod {head.name} is not running yet: {head.waiting_reason or head.phase}")
        elif not self._no_exec:
            self._note_once(f"attempt {attempt.number} has no head pod yet ({job.status.phase or 'new'})")
        if self._no_exec and self._clock() >= self._next_stored:
            self._next_stored = self._clock() + _STORED_SECONDS
            self._read_stored(job, attempt)
        return False

    def _wait_for_shutdown(self, job: Job, attempt: AttemptStatus, head: Pod | None) -> None:
        """Print the log of the head pod while the Ray cluster shuts down, until the pod is gone.

        Stop after ``_SHUTDOWN_SECONDS`` at the latest.
        """
        deadline = self._clock() + _SHUTDOWN_SECONDS
        while head is not None and self._has_printed(attempt) and self._clock() < deadline:
            self._read_head(head, attempt)
            self._sleep(_POLL_SECONDS)
            head = self._head(job, attempt)

    def _finish(self, job: Job, attempt: AttemptStatus) -> None:
        """Print the rest of the log from storage, and the outcome of ``attempt``; do this only once per attempt."""
        key = f"finished {attempt.number}"
        if key in self._noted:
            return
        self._noted.add(key)
        try:
            self._read_stored(job, attempt)
        except (UserError, RunFailed) as error:
            if not self._has_printed(attempt):
                raise
            self._note(f"the end of the log may be missing, because the stored log cannot be read: {error}")
        if attempt.outcome is not None:
            self._note_outcome(attempt)

    # The head pod

    def _head(self, job: Job, attempt: AttemptStatus) -> Pod | None:
        try:
            pods = self._cluster.pods(job.name, PodRole.HEAD)
        except Forbidden as error:
            self._note_once(f"{error.problems[0].message}; showing the stored log instead")
            self._no_exec = True
            return None
        return newest([pod for pod in pods if pod.ray_job == attempt.ray_job_name])

    def _read_head(self, head: Pod, attempt: AttemptStatus) -> bool:
        """Print the new part of the log from the head pod. Return False if the log cannot be read there."""
        if self._no_exec or HEAD_CONTAINER not in head.running_containers:
            return False
        while True:
            offsets = [
                f"{file}:{position.offset}"
                for (ray_job, file), position in self._positions.items()
                if ray_job == attempt.ray_job_name
            ]
            command = ["sh", "-c", READ_SCRIPT, "sh", RAY_LOGS, *offsets]
            try:
                output = self._cluster.execute(head.name, HEAD_CONTAINER, command)
            except Forbidden as error:
                self._no_exec = True
                self._note_once(f"{error.problems[0].message}; showing the stored log, which is some seconds behind")
                return False
            except NotFound:
                return False
            except RunFailed as error:
                self._note_once(f"{error}")
                return False
            is_cut = False
            for file, content in parse_output(output):
                self._print(attempt.ray_job_name, file, content, offset=True)
                is_cut = is_cut or len(content) == _MAX_READ_BYTES
            if not is_cut:
                return True

    # Storage

    def _read_stored(self, job: Job, attempt: AttemptStatus) -> None:
        location = self._locate_run(job)
        with location.hinting():
            store = location.open().child(LOGS_FOLDER, attempt.ray_job_name)
            stored = {path: store.read(path) for path in store.list() if path.startswith(DRIVER_LOG_PREFIX)}
        for path, content in stored.items():
            position = self._positions.get((attempt.ray_job_name, path))
            new_content = bytes_after(content, position.tail) if position else content
            if new_content is None:
                self._note(f"some lines of {path} are missing here")
                new_content = content
            self._print(attempt.ray_job_name, path, new_content, offset=False)

    # The check before the first attempt

    def _show_check(self, job: Job) -> None:
        pod = self._check_pod(job)
        if pod is not None and pod.phase != "Pending":
            self._print_pod_log(pod, follow=False)
        elif pod is not None:
            self._note(f"pod {pod.name} is not running yet: {pod.waiting_reason or pod.phase}")
        lines = [messages.condition_message(condition) for condition in messages.relevant_conditions(job)]
        for line in lines or [
            f"job {job.name} has no log yet, because none of its pods has run ({job.status.phase or 'new'})"
        ]:
            self._note(line)

    def _follow_check(self, job: Job) -> None:
        pod = self._check_pod(job)
        if pod is None or pod.uid in self._noted:
            self._note_once("no pod of this job has started yet")
        elif pod.phase == "Pending":
            self._note_once(f"pod {pod.name} is not running yet: {pod.waiting_reason or pod.phase}")
        else:
            self._noted.add(pod.uid)
            self._print_pod_log(pod, follow=True)

    def _check_pod(self, job: Job) -> Pod | None:
        try:
            return newest(self._cluster.pods(job.name, PodRole.PREFLIGHT))
        except Forbidden as error:
            self._note_once(error.problems[0].message)
            return None

    def _print_pod_log(self, pod: Pod, *, follow: bool) -> None:
        try:
            for chunk in self._cluster.pod_log(pod.name, CHECK_CONTAINER, follow=follow):
                self._out(chunk)
        except Forbidden as error:
            self._note_once(error.problems[0].message)
        except (NotFound, UserError, Unreachable) as error:
            self._note_once(f"the log of pod {pod.name} cannot be read: {error}")

    # Printing

    def _print(self, ray_job: str, file: str, content: bytes, *, offset: bool) -> None:
        if not content:
            return
        if self._current_file != (ray_job, file):
            if self._current_file is not None or self._positions:
                self._note(f"--- {ray_job}: {file} ---")
            self._current_file = (ray_job, file)
        position = self._positions.setdefault((ray_job, file), _Position())
        if offset:
            position.offset += len(content)
        position.tail = (position.tail + content)[-_ANCHOR_BYTES:]
        self._out(content)

    def _has_printed(self, attempt: AttemptStatus) -> bool:
        return any(ray_job == attempt.ray_job_name for ray_job, _ in self._positions)

    def _note_once(self, text: str) -> None:
        if text and text not in self._noted:
            self._noted.add(text)
            self._note(text)

    def _note_outcome(self, attempt: AttemptStatus) -> None:
        self._note(messages.attempt_end(attempt))

    def _note_why_empty(self, job: Job, attempt: AttemptStatus, head: Pod | None) -> None:
        if attempt.outcome is not None:
            self._note(f"no log of attempt {attempt.number} was stored: its trainer never ran, or its node was lost")
            self._note_outcome(attempt)
        elif head is None:
            self._note(f"attempt {attempt.number} has no head pod yet ({job.status.phase or 'new'})")
        elif HEAD_CONTAINER not in head.running_containers:
            self._note(f"pod {head.name} is not running yet: {head.waiting_reason or head.phase}")
        else:
            self._note(f"pod {head.name} is running, but its trainer has printed nothing yet")
        if attempt.outcome is None:
            for condition in messages.relevant_conditions(job):
                self._note(messages.condition_message(condition))


def _select_attempt(job: Job, number: int | None) -> AttemptStatus | None:
    attempt = job.attempt(number)
    if attempt is None and number is not None:
        numbers = ", ".join(str(attempt.number) for attempt in job.status.attempts) or "none yet"
        raise UserError.at("--attempt", f"job {job.name} has no attempt {number}; its attempts: {numbers}")
    return attempt


def parse_output(output: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield each file name and its new bytes from the output of ``READ_SCRIPT``, which may be truncated."""
    while output:
        head, newline, rest = output.partition(b"\n")
        name, _, size = head.rpartition(b" ")
        if not newline or not name or not size.isdigit():
            return
        length = int(size)
        yield name.decode("utf-8", "replace"), rest[:length]
        output = rest[length:]


def bytes_after(content: bytes, tail: bytes) -> bytes | None:
    """Return the bytes of ``content`` that follow ``tail``, or None if ``content`` begins after the end of ``tail``.

    Args:
        content: The stored tail of a log file.
        tail: The last bytes of the file that were printed.
    """
    if content.startswith(tail):  # the stored content begins with the printed bytes
        return content[len(tail) :]
    start = content.rfind(tail)
    if start >= 0:
        return content[start + len(tail) :]
    if content[-_MIN_ANCHOR_BYTES:] in tail:  # the stored content ends within the printed bytes
        return b""
    for size in range(min(len(tail), len(content)), _MIN_ANCHOR_BYTES - 1, -1):
        if content.startswith(tail[-size:]):  # the stored content begins within the printed bytes
            return content[size:]
    return None
