"""The wall time of a run by phase: no gaps, no overlaps, and what is stored is read again."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern.pipeline.phases import TIMES_FOLDER, Phase, PhaseClock, read_phases, store_phases
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store


class Time:
    """A time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_phase_inside_another_counts_once() -> None:
    time = Time()
    clock = PhaseClock(now=time)
    time.now += 1
    with clock.phase(Phase.TEACH):
        time.now += 2
        with clock.phase(Phase.EVALUATE):
            time.now += 4
        time.now += 8
    time.now += 16
    assert clock.seconds() == {Phase.TEACH: 10, Phase.EVALUATE: 4, Phase.OTHER: 17}


@given(st.lists(st.tuples(st.sampled_from(Phase), st.floats(0, 100), st.booleans()), max_size=20))
def test_all_time_is_in_exactly_one_phase(steps: list[tuple[Phase, float, bool]]) -> None:
    time = Time()
    clock = PhaseClock(now=time)
    expected: dict[Phase, float] = {Phase.OTHER: 0.0}
    for phase, seconds, fails in steps:
        try:
            with clock.phase(phase):
                time.now += seconds
                if fails:
                    raise ValueError
        except ValueError:
            pass
        expected[phase] = expected.get(phase, 0.0) + seconds
    assert clock.seconds() == pytest.approx(expected)
    assert sum(clock.seconds().values()) == pytest.approx(time.now - 100)


def test_times_are_kept_now_and_then() -> None:
    time, kept = Time(), []

    def keep(seconds: Mapping[Phase, float]) -> None:
        kept.append(dict(seconds))

    clock = PhaseClock(keep, time)
    for _ in range(8):
        with clock.phase(Phase.TRAIN):
            time.now += 10
    assert [each[Phase.TRAIN] for each in kept] == [30, 60]
    clock.keep()
    assert kept[-1][Phase.TRAIN] == 80


def test_times_are_kept_within_a_long_phase() -> None:
    time, kept = Time(), []

    def keep(seconds: Mapping[Phase, float]) -> None:
        kept.append(dict(seconds))

    clock = PhaseClock(keep, time)
    with clock.phase(Phase.TRAIN):
        for _ in range(9):
            time.now += 10
            clock.tick()
    assert [each[Phase.TRAIN] for each in kept] == [30, 60, 90]


def test_stored_times_are_read_by_term(tmp_path: Path) -> None:
    store = RunStore(open_store(tmp_path.as_uri()))
    claimant = store.new_claimant()
    terms = [store.claim_term({"pid": "1"}, claimant) for _ in range(3)]
    store_phases(store, terms[0], {Phase.TRAIN: 1.0})
    store_phases(store, terms[0], {Phase.TRAIN: 2.0, Phase.SAVE: 0.5})
    store_phases(store, terms[2], {Phase.LOAD: 3.0})
    assert [(attempt.term, attempt.seconds) for attempt in read_phases(store)] == [
        (terms[0], {"train": 2.0, "save": 0.5}),
        (terms[2], {"load": 3.0}),
    ]
    (tmp_path / TIMES_FOLDER / f"t{terms[0]}.json").write_text("not JSON")
    assert [attempt.term for attempt in read_phases(store)] == [terms[2]]
