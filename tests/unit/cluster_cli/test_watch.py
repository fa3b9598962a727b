"""Watching a job over broken watches and an API server that does not answer."""

from collections.abc import Iterator
from typing import Any

import pytest
from promptintern.cluster.api_errors import Expired, Forbidden, NotFound, Unreachable
from promptintern.cluster.objects import Job
from promptintern.cluster.watch import Deleted, Interrupted, Resumed, watch_job
from promptintern.errors import Problem

from tests.unit.cluster_cli.documents import stored

ONE = stored({"metadata.resourceVersion": "1"}, phase="Checking")
TWO = stored({"metadata.resourceVersion": "2"}, phase="Training")
OTHER = stored({"metadata.resourceVersion": "9", "metadata.uid": "another-uid"})
AWAY = Unreachable("away")
GONE = NotFound([Problem(where="small", message="does not exist")])


class Script:
    """A cluster that gives these answers in order; exceptions are raised."""

    def __init__(self, jobs: list[Any], watches: list[list[Any]]) -> None:
        self.jobs, self.watches = jobs, watches

    def job(self, name: str) -> Job:
        answer = self.jobs.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def watch(self, name: str, version: str) -> Iterator[tuple[bool, Job]]:
        for each in self.watches.pop(0) if self.watches else []:
            if isinstance(each, Exception):
                raise each
            yield each


@pytest.mark.parametrize(
    ("jobs", "watches", "expected"),
    [
        ([ONE], [[(False, TWO), (True, TWO)]], [ONE, TWO, Deleted()]),
        ([ONE, GONE], [[]], [ONE, Deleted()]),
        ([ONE, OTHER], [[]], [ONE, Deleted()]),
        ([ONE], [[(False, OTHER)]], [ONE, Deleted()]),
        ([ONE, TWO, GONE], [[Expired("old")]], [ONE, TWO, Deleted()]),
        ([ONE, ONE, GONE], [[AWAY], [Forbidden([])]], [ONE, Deleted()]),
        ([ONE, AWAY, AWAY, TWO, GONE], [[AWAY]], [ONE, Interrupted(reason="away"), Resumed(), TWO, Deleted()]),
    ],
)
def test_updates(jobs: list[Any], watches: list[list[Any]], expected: list[Any]) -> None:
    updates = list(watch_job(Script([*jobs], [*watches]), "small", sleep=lambda _: None, clock=lambda: 0.0))
    assert updates == expected


def test_patience_ends() -> None:
    clock = iter(range(0, 10_000, 100)).__next__
    updates = watch_job(Script([ONE, *[AWAY] * 50], []), "small", sleep=lambda _: None, clock=clock)
    with pytest.raises(Unreachable):
        list(updates)


@pytest.mark.parametrize("error", [GONE, AWAY])
def test_an_error_of_the_first_request_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        next(watch_job(Script([error], []), "small"))
