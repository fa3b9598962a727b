"""A job as it changes, over broken connections and restarts of the API server."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from promptintern.cluster.answers import Expired, Forbidden, NotFound, Unreachable
from promptintern.cluster.objects import Job

PATIENCE_SECONDS = 600.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 10.0
_POLL_SECONDS = 3.0


class Watched(Protocol):
    """What following needs of a cluster."""

    def job(self, name: str) -> Job: ...

    def watch(self, name: str, version: str) -> Iterator[tuple[bool, Job]]: ...


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """The API server does not answer; it is asked again."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """It answers again."""


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """The job is gone, or another one has its name."""


Sight = Job | Interrupted | Resumed | Deleted


def follow(
    cluster: Watched,
    name: str,
    *,
    patience: float = PATIENCE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Sight]:
    """Every state of job ``name`` that is seen, the present one first. Ends after ``Deleted``; else the caller stops.

    Raises:
        NotFound: if there is no such job at the beginning.
        Unreachable: if the API server does not answer for ``patience`` seconds.
    """
    job = cluster.job(name)
    yield job
    uid, seen, wait, lost = job.uid, _version(job), _FIRST_WAIT, None
    while True:
        for gone, job in _watched(cluster, name, seen, sleep):
            if gone or job.uid != uid:
                yield Deleted()
                return
            seen = _version(job)
            yield job
        try:
            job = cluster.job(name)
        except NotFound:
            yield Deleted()
            return
        except Unreachable as error:
            if lost is None:
                lost = clock()
                yield Interrupted(why=str(error))
            elif clock() - lost > patience:
                raise
            sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            continue
        if lost is not None:
            lost, wait = None, _FIRST_WAIT
            yield Resumed()
        if job.uid != uid:
            yield Deleted()
            return
        if _version(job) != seen:
            seen = _version(job)
            yield job


def _watched(cluster: Watched, name: str, version: str, sleep: Callable[[float], None]) -> Iterator[tuple[bool, Job]]:
    """Changes since ``version`` until the watch ends. One that breaks, or may not be, says nothing: asking does."""
    try:
        yield from cluster.watch(name, version)
    except Expired:
        pass
    except Unreachable:
        sleep(_FIRST_WAIT)
    except Forbidden:
        sleep(_POLL_SECONDS)


def _version(job: Job) -> str:
    return str(job.document["metadata"].get("resourceVersion", ""))
