"""Watching a job across broken connections and restarts of the API server."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from promptintern.cluster.api_errors import Expired, Forbidden, NotFound, Unreachable
from promptintern.cluster.objects import Job

PATIENCE_SECONDS = 600.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 10.0
_POLL_SECONDS = 3.0


class WatchClient(Protocol):
    """The part of a cluster client that ``watch_job`` needs."""

    def job(self, name: str) -> Job: ...

    def watch(self, name: str, version: str) -> Iterator[tuple[bool, Job]]: ...


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """The update that reports that the API server stopped answering; requests are being retried."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """The update that reports that the API server answers again."""


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """The last update, which reports that the job was deleted; another job may have the same name now."""


Update = Job | Interrupted | Resumed | Deleted


def watch_job(
    cluster: WatchClient,
    name: str,
    *,
    patience: float = PATIENCE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Update]:
    """Yield the current state of job ``name``, then an update for each change, until the job is deleted.

    An update is the new state of the job, or the news that the API server stopped answering or answers again.

    Args:
        patience: The number of seconds without an answer from the API server after which the watch fails.

    Raises:
        NotFound: if the job does not exist when watching begins.
        Unreachable: if the API server does not answer for ``patience`` seconds.
    """
    job = cluster.job(name)
    yield job
    uid, version, wait, lost_since = job.uid, _resource_version(job), _FIRST_WAIT, None
    while True:
        for is_deleted, job in _watch_once(cluster, name, version, sleep):
            if is_deleted or job.uid != uid:
                yield Deleted()
                return
            version = _resource_version(job)
            yield job
        try:
            job = cluster.job(name)
        except NotFound:
            yield Deleted()
            return
        except Unreachable as error:
            if lost_since is None:
                lost_since = clock()
                yield Interrupted(reason=str(error))
            elif clock() - lost_since > patience:
                raise
            sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            continue
        if lost_since is not None:
            lost_since, wait = None, _FIRST_WAIT
            yield Resumed()
        if job.uid != uid:
            yield Deleted()
            return
        if _resource_version(job) != version:
            version = _resource_version(job)
            yield job


def _watch_once(
    cluster: WatchClient, name: str, version: str, sleep: Callable[[float], None]
) -> Iterator[tuple[bool, Job]]:
    """Yield the changes of job ``name`` since the resourceVersion ``version``, until the watch ends.

    If the watch breaks or is refused, no error is raised; the caller's next request shows the cause.
    """
    try:
        yield from cluster.watch(name, version)
    except Expired:
        pass
    except Unreachable:
        sleep(_FIRST_WAIT)
    except Forbidden:
        sleep(_POLL_SECONDS)


def _resource_version(job: Job) -> str:
    return str(job.document["metadata"].get("resourceVersion", ""))
