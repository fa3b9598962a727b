"""What the e2e tests derive from drivers' logs."""

from tests.e2e.terms import join_in_order, planned_stops, resumed_after, steps_lost

FIRST = """\
2026-01-02T03:04:05Z starting Ray with 2 workers
stage 4/4: step 10/100, loss 0.5
stage 4/4: step 50/100, loss 0.4
"""
SECOND = """\
2026-01-02T03:09:05Z starting Ray with 2 workers
stage 4/4 continues after step 40
stage 4/4: step 60/100, loss 0.3
"""


def test_steps_that_ran_twice_are_counted_whatever_the_logs_are_called() -> None:
    for logs in ([FIRST, SECOND], [SECOND, FIRST]):
        text = join_in_order(logs)
        assert resumed_after(text) == [40]
        assert steps_lost(text) == 10


def test_the_log_of_a_driver_that_printed_nothing_is_left_out() -> None:
    assert join_in_order(["", FIRST]) == FIRST


def test_a_stop_without_saving_has_no_saved_step() -> None:
    saved = "saved at stage 3/3, step 12 of 40; the next attempt continues there"
    worker = (
        "the pod of a worker is about to be deleted; saved at stage 3/3, step 20 of 40; the workers restart from there"
    )
    log = "\n".join(
        [
            "stage 3/3: step 10/40, loss 1",
            saved,
            "stage 3/3 continues after step 12",
            worker,
            "stage 3/3 continues after step 20",
            "stage 3/3: step 25/40, loss 1",
            "stage 3/3 continues after step 25",
        ]
    )
    assert planned_stops(log) == [(12, 12), (20, 20), (None, 25)]
