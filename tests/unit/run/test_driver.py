"""What a driver says of workers that failed."""

import pytest
from promptintern.run.driver import cause_of

OUT_OF_MEMORY = """Training failed due to controller error:
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: 85262e) was \
1.07GB used / 1.12GB limit (0.952894)
OOM kill reason: Memory usage 1147506688B exceeded threshold of 1145569280B (95.0% of 1205862400B limit)
Refer to the documentation on how to address the out of memory issue. Set max_restarts and max_task_retries ..."""


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            OUT_OF_MEMORY,
            "OutOfMemoryError: Ray killed a worker that used 1.07GB of its pod's or machine's 1.12GB of memory",
        ),
        ("Training failed due to worker errors:\nValueError: no such column\n", "ValueError: no such column"),
        ("", "RuntimeError"),
    ],
)
def test_the_cause_is_one_line(said: str, cause: str) -> None:
    assert cause_of(RuntimeError(said)) == cause
