"""The output of a run in progress: progress bars on a terminal, and plain lines in a log."""

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from promptintern_api.metrics import Metric
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from promptintern.pipeline.events import (
    Answered,
    CheckpointSaved,
    Claimed,
    Ending,
    Event,
    Note,
    Scored,
    ShardStored,
    StageDone,
    Stepped,
    Trained,
    TrainingBegan,
)
from promptintern.report import formatting
from promptintern.stage_record import Throughput
from promptintern.terminal import SafeConsole

_LINE_SECONDS = 5.0
"""The minimum number of seconds between two lines of progress in a log."""


class StopFlag:
    """A flag that SIGTERM or SIGINT sets, so that the run saves and stops. A second SIGINT ends the run at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._event = threading.Event()

    def is_set(self) -> bool:
        """Return whether SIGTERM or SIGINT has arrived."""
        return self._event.is_set()

    @contextmanager
    def installed(self) -> Iterator["StopFlag"]:
        """Handle SIGTERM and SIGINT inside the block, and restore the previous handlers afterwards."""

        def handle(number: int, _frame: FrameType | None) -> None:
            if self.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number
            self._event.set()

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Base:
    def __init__(self, stop: StopFlag) -> None:
        self._stop = stop

    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def record_ending(self, kind: Ending, problems: Sequence[tuple[str, str]]) -> None:
        """Ignore the ending of the run, because the driver's own process reports an ending by raising an exception."""

    def has_ending(self) -> bool:
        return False

    def record_saved(self, where: str) -> bool:
        return False


class LogObserver(_Base):
    """An observer that prints each event that matters to people on one line, and progress at most every few seconds."""

    def __init__(self, console: Console, stop: StopFlag) -> None:
        super().__init__(stop)
        self._console = console
        self._last: float = float("-inf")

    def emit(self, event: Event) -> None:
        """Print ``event``."""
        match event:
            case Stepped(done=done, steps=steps):
                if done < steps and time.monotonic() - self._last < _LINE_SECONDS:
                    return
                self._last = time.monotonic()
            case Answered(done=done, rows=rows):
                if done < rows and time.monotonic() - self._last < _LINE_SECONDS:
                    return
                self._last = time.monotonic()
            case Claimed() | StageDone() | CheckpointSaved() | ShardStored():
                return  # meant for programs
        self._console.print(_line(event), soft_wrap=True)


class BarObserver(_Base):
    """An observer that shows a run's progress bars, with notes and scores above the bars."""

    def __init__(self, progress: Progress, stop: StopFlag) -> None:
        super().__init__(stop)
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def emit(self, event: Event) -> None:
        """Show ``event``."""
        match event:
            case TrainingBegan():
                self._print(event)
                self._bar(f"train {event.name}", event.done, event.steps, "")
            case Stepped():
                text = " · ".join([f"loss {event.loss:.4f}", *_rates(event.throughput)])
                self._bar(f"train {event.name}", event.done, event.steps, text)
            case Answered():
                self._bar(f"answer {event.name}", event.done, event.rows, "")
            case Claimed() | StageDone() | CheckpointSaved() | ShardStored():
                pass  # meant for programs
            case _:
                self._print(event)

    def _print(self, event: Note | TrainingBegan | Trained | Scored) -> None:
        style = "yellow" if isinstance(event, Note) and event.warning else None
        self._progress.console.print(_line(event), style=style)

    def _bar(self, name: str, done: int, total: int, text: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, text=text)
        self._progress.update(self._tasks[name], completed=done, text=text, visible=done < total)


def _line(event: Note | TrainingBegan | Stepped | Trained | Answered | Scored) -> str:
    match event:
        case Note():
            return f"warning: {event.text}" if event.warning else event.text
        case TrainingBegan(plan=plan):
            start = f", continued after step {event.done}" if event.done else ""
            at_a_time = f", {event.lanes} packs at a time" if event.lanes > 1 else ""
            return (
                f"{event.name}: template rate {plan.achieved_rate:.2f}, {plan.shots} examples, "
                f"{plan.prompt_tokens_mean:.1f} prompt tokens per query, {event.steps} steps of "
                f"{plan.training_tokens:,} tokens, of which {event.computed_tokens:,} are computed and "
                f"{event.loss_tokens:,} have a loss{at_a_time}{start}"
            )
        case Stepped():
            return ", ".join(
                [f"{event.name}: step {event.done}/{event.steps}", f"loss {event.loss:.4f}", *_rates(event.throughput)]
            )
        case Trained():
            rates = [*_rates(event.throughput), f"{event.throughput.loss_tokens_per_second:,.0f} loss tokens/s"]
            if event.throughput.mfu is not None:
                rates.append(f"MFU {formatting.percent(event.throughput.mfu)}")
            spent = event.throughput.time_shares or ()
            shares = ", ".join(f"{phase} {formatting.percent(share)}" for phase, share in spent if share)
            line = ", ".join([f"{event.name}: trained in {formatting.duration(event.seconds)}", *rates])
            return f"{line}; {shares}" if shares else line
        case Answered():
            return f"{event.name}: answered {event.done}/{event.rows}"
        case Scored():
            return f"{event.name}: {event.metric} {formatting.score(Metric(event.metric), event.score)}"


def _rates(speed: Throughput) -> list[str]:
    computed = speed.computed_tokens_per_second
    more = "" if computed is None else f" ({computed:,.0f} computed)"
    return [
        f"{formatting.mean(speed.examples_per_second)} examples/s",
        f"{speed.tokens_per_second:,.0f} tokens/s{more}",
    ]


@contextmanager
def terminal_observer(stop: StopFlag) -> Iterator[LogObserver | BarObserver]:
    """Provide an observer that prints to standard error: progress bars on a terminal, and plain lines elsewhere."""
    console = SafeConsole(stderr=True)
    if not console.is_terminal:
        yield LogObserver(SafeConsole(file=sys.stderr, width=200), stop)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarObserver(progress, stop)
