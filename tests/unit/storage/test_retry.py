"""When storage retries, and when it gives up."""

from dataclasses import dataclass, field

import pytest
from promptintern.errors import RunFailed, UserError
from promptintern.storage.retry import RetryPolicy, Transient
from promptintern_api.contract import ENV_STORAGE_DEADLINE
from structlog.testing import capture_logs


@dataclass
class Clock:
    """A clock that advances only by sleeping."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def policy(self, deadline: float = 120.0, jitter: float = 0.999) -> RetryPolicy:
        return RetryPolicy(deadline=deadline, sleep=self.sleep, clock=lambda: self.now, jitter=lambda: jitter)


@dataclass
class Outage:
    """Fails until ``ends``."""

    clock: Clock
    ends: float
    calls: int = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.clock.now < self.ends:
            raise Transient("server is away")
        return "done"


@pytest.mark.parametrize("jitter", [0.0, 0.999])
@pytest.mark.parametrize("seconds", [0, 1, 20, 100])
def test_an_outage_shorter_than_the_deadline_is_survived(seconds: float, jitter: float) -> None:
    clock = Clock()
    outage = Outage(clock, clock.now + seconds)
    assert clock.policy(jitter=jitter).run(outage, operation="PutObject", about={}) == "done"
    assert outage.calls == len(clock.slept) + 1
    assert max(clock.slept, default=0) <= 5.0


def test_waits_grow_and_differ_by_jitter() -> None:
    clock = Clock()
    with pytest.raises(RunFailed):
        clock.policy(jitter=0.0).run(Outage(clock, float("inf")), operation="x", about={})
    assert clock.slept[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.5])


def test_giving_up_names_the_place_and_the_operation() -> None:
    clock = Clock()
    with pytest.raises(RunFailed) as failed:
        clock.policy().run(Outage(clock, float("inf")), operation="PutObject", about={"bucket": "b", "key": "k/x"})
    assert 100 < clock.now - 1000 <= 120
    for part in ("PutObject", "bucket b", "key k/x", "server is away", "run the same command again"):
        assert part in str(failed.value)


def test_a_slow_first_try_costs_nothing_of_the_deadline() -> None:
    clock = Clock()
    outage = Outage(clock, 0)

    def slow() -> str:
        if not outage.calls:
            clock.now += 500
            outage.calls += 1
            raise Transient("cut after a long upload")
        return "done"

    assert clock.policy().run(slow, operation="UploadPart", about={}) == "done"


def test_other_errors_are_raised_at_once() -> None:
    clock = Clock()

    def wrong() -> None:
        raise UserError.at("s3://b", "no such bucket")

    with pytest.raises(UserError):
        clock.policy().run(wrong, operation="x", about={})
    assert clock.slept == []


def test_every_wait_is_logged() -> None:
    clock = Clock()
    with capture_logs() as logs:
        clock.policy().run(Outage(clock, clock.now + 1), operation="GetObject", about={"bucket": "b", "key": "k"})
    assert [log["attempt"] for log in logs] == list(range(1, len(clock.slept) + 1))
    expected = {"log_level": "warning", "operation": "GetObject", "bucket": "b", "key": "k"}
    assert all(expected.items() <= log.items() for log in logs)
    assert logs[0]["wait_seconds"] == pytest.approx(clock.slept[0], abs=0.01)


def test_the_environment_sets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_STORAGE_DEADLINE, raising=False)
    assert RetryPolicy.from_environment().deadline == 120
    monkeypatch.setenv(ENV_STORAGE_DEADLINE, "7.5")
    assert RetryPolicy.from_environment().deadline == 7.5


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_bad_deadline_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_STORAGE_DEADLINE, text)
    with pytest.raises(UserError, match=ENV_STORAGE_DEADLINE):
        RetryPolicy.from_environment()
