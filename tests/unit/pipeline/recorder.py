"""An observer for tests of the pipeline."""

from promptintern.pipeline.events import Event


class Recorder:
    """An observer that keeps all events, and asks the run to stop if it was told to."""

    def __init__(self, *, stop: bool = False) -> None:
        self.events: list[Event] = []
        self.stop = stop

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def stop_requested(self) -> bool:
        return self.stop
