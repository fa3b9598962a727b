"""What the e2e tests read out of drivers' logs."""

from tests.e2e.epochs import in_order, resumed_after, steps_lost

FIRST = """\
2026-01-02 03:04:05,678\tINFO worker.py:1692 -- Connecting to existing Ray cluster
stage 4/4: step 10/100, loss 0.5
stage 4/4: step 50/100, loss 0.4
"""
SECOND = """\
2026-01-02 03:09:05,678\tINFO worker.py:1692 -- Connecting to existing Ray cluster
stage 4/4 continues after step 40
stage 4/4: step 60/100, loss 0.3
"""


def test_steps_that_were_done_twice_are_seen_whatever_the_logs_are_called() -> None:
    for logs in ([FIRST, SECOND], [SECOND, FIRST]):
        text = in_order(logs)
        assert resumed_after(text) == [40]
        assert steps_lost(text) == 10


def test_a_driver_that_came_to_nothing_says_nothing() -> None:
    assert in_order(["", FIRST]) == FIRST
