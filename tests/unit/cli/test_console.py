"""Training as a log and a bar show it."""

import io
from dataclasses import replace

import pytest
from promptintern.cli.console import BarObserver, LogObserver, StopFlag, _line
from promptintern.pipeline.events import Event, Scored, Stepped, Trained
from promptintern.stage_record import Throughput
from promptintern_api.metrics import Metric
from promptintern_api.training_status import TimeShares
from rich.console import Console
from rich.progress import Progress, TextColumn

RATES = Throughput(
    examples_per_second=19.52,
    tokens_per_second=11_200.4,
    computed_tokens_per_second=3_900.2,
    loss_tokens_per_second=390.0,
    time_shares=TimeShares(data=0.02, forward=0.4, backward=0.58),
)
UNTIMED = RATES.model_copy(update={"computed_tokens_per_second": None, "time_shares": None})
STEPPED = Stepped(name="stage 1/4", stage=0, done=10, steps=10, loss=1.2345, seconds=5.0, throughput=RATES)
TRAINED = Trained(name="stage 1/4", seconds=200.0, throughput=RATES)


def line(event: Event) -> str:
    out = io.StringIO()
    LogObserver(Console(file=out, width=200), StopFlag()).emit(event)
    return out.getvalue().rstrip("\n")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (STEPPED, "step 10/10, loss 1.2345, 19.5 examples/s, 11,200 tokens/s (3,900 computed)"),
        (
            replace(STEPPED, throughput=UNTIMED),
            "step 10/10, loss 1.2345, 19.5 examples/s, 11,200 tokens/s",
        ),
        (
            TRAINED,
            "trained in 3 min 20 s, 19.5 examples/s, 11,200 tokens/s (3,900 computed), 390 loss tokens/s; "
            "data 2 %, forward 40 %, backward 58 %",
        ),
        (
            replace(TRAINED, throughput=RATES.model_copy(update={"mfu": 0.314})),
            "trained in 3 min 20 s, 19.5 examples/s, 11,200 tokens/s (3,900 computed), 390 loss tokens/s, MFU 31 %; "
            "data 2 %, forward 40 %, backward 58 %",
        ),
        (
            replace(TRAINED, throughput=UNTIMED),
            "trained in 3 min 20 s, 19.5 examples/s, 11,200 tokens/s, 390 loss tokens/s",
        ),
    ],
)
def test_lines_of_a_log(event: Event, text: str) -> None:
    assert line(event) == f"stage 1/4: {text}"


def test_a_bar() -> None:
    progress = Progress(TextColumn("{task.fields[text]}"), console=Console(file=io.StringIO(), width=200))
    BarObserver(progress, StopFlag()).emit(replace(STEPPED, done=4))
    (task,) = progress.tasks
    assert task.fields["text"] == "loss 1.2345 · 19.5 examples/s · 11,200 tokens/s (3,900 computed)"


@pytest.mark.parametrize("metric", list(Metric))
def test_a_score_is_shown_in_the_unit_of_its_metric(metric: Metric) -> None:
    line = _line(Scored(name="arm Base", metric=str(metric), score=0.4 if metric.is_share else 40.0))
    assert line == f"arm Base: {metric} {'40.0 %' if metric.is_share else '40.0'}"
