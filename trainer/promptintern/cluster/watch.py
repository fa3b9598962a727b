"""A job as it changes, over broken connections and restarts of the API server."""

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
    """What following needs of a cluster."""

    def job(self, name: str) -> Job: ...

    def watch(self, name: str, version: str) -> Iterator[tuple[bool, Job]]: ...


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """The API server does not answer; it is asked again."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """It answers again."""


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """The job is gone, or another one has its name."""


Update = Job | Interrupted | Resumed | Deleted


def watch_job(
    cluster: WatchClient,
    name: str,
    *,
    patience: float = PATIENCE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Update]:
    """Every state of job ``name`` that is seen, the present one first. Ends after ``Deleted``; else the caller stops.

    Raises:
        NotFound: if there is no such job at the beginning.
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
    """Changes since ``version`` until the watch ends. One that breaks, or may not be, says nothing: asking does."""
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
