"""The workqueue, on a simulated clock, so that no test really waits."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern_operator.queue import Key, Workqueue

KEYS = [Key("team-a", name) for name in "abc"]
A, B, C = KEYS
Reconcile = Callable[[Key], Awaitable[None]]


class TurnedClock(asyncio.SelectorEventLoop):
    """An event loop on which every sleep is over as soon as nothing else is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._hours = 0.0

    def time(self) -> float:
        return self._hours

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._hours = max(self._hours, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(
    story: Callable[[Workqueue], Coroutine[Any, Any, None]],
    reconcile: Reconcile,
    *,
    workers: int = 1,
    urgent: Callable[[Key], bool] = lambda _: False,
) -> None:
    """Run ``story`` next to ``workers`` workers."""

    async def main() -> None:
        queue = Workqueue(urgent)
        tasks = [asyncio.create_task(queue.work(reconcile)) for _ in range(workers)]
        try:
            await story(queue)
            assert not [task for task in tasks if task.done()], "a worker died"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with asyncio.Runner(loop_factory=TurnedClock) as runner:
        runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


class RecordingReconcile:
    """Records each call; each one takes ``seconds``, and the first ``failing`` calls fail."""

    def __init__(self, *, seconds: float = 0.0, failing: int = 0) -> None:
        self.calls: list[tuple[Key, float]] = []
        self.busy: Counter[Key] = Counter()
        self.seconds = seconds
        self.failing = failing

    async def __call__(self, key: Key) -> None:
        self.busy[key] += 1
        assert self.busy[key] == 1, "two workers reconcile one job"
        self.calls.append((key, now()))
        try:
            await asyncio.sleep(self.seconds)
            if self.failing > 0:
                self.failing -= 1
                raise RuntimeError("the API server is away")
        finally:
            self.busy[key] -= 1

    @property
    def times(self) -> list[float]:
        return [when for _, when in self.calls]


def test_many_changes_are_one_reconciliation() -> None:
    reconcile = RecordingReconcile()

    async def story(queue: Workqueue) -> None:
        for _ in range(10):
            await queue.add(A)
        await asyncio.sleep(1)

    run(story, reconcile)
    assert len(reconcile.calls) == 1


def test_keys_come_in_the_order_they_were_added() -> None:
    reconcile = RecordingReconcile()

    async def story(queue: Workqueue) -> None:
        for key in (B, A, B):
            await queue.add(key)
        await asyncio.sleep(1)

    run(story, reconcile)
    assert [key for key, _ in reconcile.calls] == [B, A]


def test_urgent_keys_go_first() -> None:
    reconcile = RecordingReconcile(seconds=4)

    async def story(queue: Workqueue) -> None:
        await queue.add(A)
        await asyncio.sleep(1)
        for key in (B, A, C):
            await queue.add(key)
        await asyncio.sleep(12)
        await queue.add(C)
        await asyncio.sleep(30)

    run(story, reconcile, urgent=lambda key: key == C)
    assert reconcile.calls == [(A, 0), (C, 4), (B, 8), (A, 12), (C, 16)]


def test_a_key_that_waits_ten_seconds_longer_goes_before_urgent_keys() -> None:
    reconcile = RecordingReconcile(seconds=4)

    async def story(queue: Workqueue) -> None:
        await queue.add(C)
        await asyncio.sleep(1)
        await queue.add(A)
        for _ in range(40):
            await queue.add(C)
            await asyncio.sleep(1)

    run(story, reconcile, urgent=lambda key: key == C)
    assert reconcile.calls[:6] == [(C, 0), (C, 4), (C, 8), (C, 12), (A, 16), (C, 20)]


def test_a_burst_of_changes_is_one_reconciliation() -> None:
    reconcile = RecordingReconcile()

    async def story(queue: Workqueue) -> None:
        for _ in range(3):
            queue.add_batched(A)
            await asyncio.sleep(0.2)
        await asyncio.sleep(10)

    run(story, reconcile)
    assert reconcile.times == [1]


def test_a_change_during_a_reconciliation_is_reconciled_afterwards() -> None:
    reconcile = RecordingReconcile(seconds=10)

    async def story(queue: Workqueue) -> None:
        await queue.add(A)
        await asyncio.sleep(5)
        await queue.add(A)
        await queue.add(A)
        await asyncio.sleep(30)

    run(story, reconcile, workers=4)
    assert reconcile.times == [0, 10]


def test_a_slow_job_does_not_hold_up_the_others() -> None:
    reconcile = RecordingReconcile(seconds=10)

    async def story(queue: Workqueue) -> None:
        await queue.add(A)
        await asyncio.sleep(1)
        await queue.add(A)
        await queue.add(B)
        await asyncio.sleep(30)

    run(story, reconcile, workers=2)
    assert reconcile.calls == [(A, 0), (B, 1), (A, 10)]


@pytest.mark.parametrize(("first", "second", "times"), [(50, 10, [10]), (10, 50, [10]), (-5, 10, [0]), (7, 7, [7])])
def test_the_earliest_requeue_time_counts(first: float, second: float, times: list[float]) -> None:
    reconcile = RecordingReconcile()

    async def story(queue: Workqueue) -> None:
        queue.add_after(A, first)
        queue.add_after(A, second)
        await asyncio.sleep(100)

    run(story, reconcile)
    assert reconcile.times == times


def test_a_requeue_time_can_be_set_again_afterwards() -> None:
    reconcile = RecordingReconcile()

    async def story(queue: Workqueue) -> None:
        queue.add_after(A, 10)
        await asyncio.sleep(20)
        queue.add_after(A, 10)
        await asyncio.sleep(20)

    run(story, reconcile)
    assert reconcile.times == [10, 30]


def test_a_job_that_is_gone_is_forgotten() -> None:
    reconcile = RecordingReconcile()

    async def story(queue: Workqueue) -> None:
        queue.add_after(A, 10)
        queue.add_after(B, 10)
        queue.forget(A)
        await asyncio.sleep(20)

    run(story, reconcile)
    assert reconcile.calls == [(B, 10)]


def test_failures_are_retried_after_delays_that_double_up_to_a_minute() -> None:
    reconcile = RecordingReconcile(failing=10)

    async def story(queue: Workqueue) -> None:
        await queue.add(A)
        await asyncio.sleep(1000)

    run(story, reconcile)
    delays = [round(later - earlier, 6) for earlier, later in pairwise(reconcile.times)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_success_resets_the_delay() -> None:
    reconcile = RecordingReconcile(failing=3)

    async def story(queue: Workqueue) -> None:
        await queue.add(A)
        await asyncio.sleep(100)
        reconcile.failing = 1
        await queue.add(A)
        await asyncio.sleep(100)

    run(story, reconcile)
    assert [round(when, 6) for when in reconcile.times] == [0, 0.5, 1.5, 3.5, 100, 100.5]


def test_a_change_does_not_wait_for_the_delay_after_a_failure() -> None:
    reconcile = RecordingReconcile(failing=8)

    async def story(queue: Workqueue) -> None:
        await queue.add(A)
        await asyncio.sleep(70)
        await queue.add(A)
        await asyncio.sleep(0.1)

    run(story, reconcile)
    assert reconcile.times[-1] == 70


_STEP = st.tuples(
    st.sampled_from(["add", "add_after", "sleep"]), st.sampled_from(KEYS), st.sampled_from([0, 0.001, 1, 3, 10])
)


@settings(max_examples=60, derandomize=True)
@given(
    steps=st.lists(_STEP, max_size=25),
    workers=st.integers(1, 4),
    seconds=st.sampled_from([0, 0.5, 2]),
    failing=st.integers(0, 5),
)
def test_no_change_is_ever_lost(
    steps: list[tuple[str, Key, float]], workers: int, seconds: float, failing: int
) -> None:
    """Every change is followed by a reconciliation that begins no earlier, whatever else goes on."""
    reconcile = RecordingReconcile(seconds=seconds, failing=failing)
    wanted: list[tuple[Key, float]] = []

    async def story(queue: Workqueue) -> None:
        for what, key, delay in steps:
            if what == "sleep":
                await asyncio.sleep(delay)
            elif what == "add":
                wanted.append((key, now()))
                await queue.add(key)
            else:
                wanted.append((key, now()))
                queue.add_after(key, delay)
        await asyncio.sleep(10_000)

    run(story, reconcile, workers=workers)
    for key, since in wanted:
        assert any(seen == key and when >= since for seen, when in reconcile.calls)
    assert {key for key, _ in reconcile.calls} == {key for key, _ in wanted}
    requested = Counter(key for key, _ in wanted)
    assert all(count <= requested[key] + 5 for key, count in Counter(key for key, _ in reconcile.calls).items())
