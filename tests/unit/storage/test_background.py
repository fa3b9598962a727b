"""Writing in the background, while training continues."""

import threading
import weakref

import pytest
from promptintern.errors import RunFailed
from promptintern.storage import background
from promptintern.storage.background import BackgroundWriter

WAIT = 10


class Gate:
    """A task that runs until it is released."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.started.set()
        assert self.go.wait(WAIT)


def _fail() -> None:
    raise RunFailed("bucket b is gone")


def test_work_runs_beside_the_caller_and_is_drained_at_the_end() -> None:
    gate, done = Gate(), []
    with BackgroundWriter() as writer:
        writer.submit(gate)
        assert gate.started.wait(WAIT)
        assert not writer.idle
        writer.submit(lambda: done.append(1))
        assert done == []
        gate.go.set()
    assert done == [1]


def test_a_newer_checkpoint_replaces_one_that_waits() -> None:
    gate, done = Gate(), []
    with BackgroundWriter() as writer:
        writer.submit(gate)
        assert gate.started.wait(WAIT)
        for step in (1, 2, 3):
            writer.submit(lambda step=step: done.append(step), replaceable=True)
        gate.go.set()
        writer.drain()
        assert writer.idle
    assert done == [3]


@pytest.mark.parametrize("first", [True, False])
def test_what_is_not_replaceable_is_waited_for(first: bool) -> None:
    gate, done = Gate(), []
    with BackgroundWriter() as writer:
        writer.submit(gate)
        assert gate.started.wait(WAIT)
        writer.submit(lambda: done.append("first"), replaceable=first)
        submitted = threading.Event()

        def submit() -> None:
            writer.submit(lambda: done.append("second"), replaceable=not first)
            submitted.set()

        caller = threading.Thread(target=submit)
        caller.start()
        assert not submitted.wait(0.05)
        gate.go.set()
        assert submitted.wait(WAIT)
        caller.join()
    assert done == ["first", "second"]


@pytest.mark.parametrize("how", ["submit", "drain", "poll"])
def test_an_error_comes_back_once(how: str) -> None:
    with BackgroundWriter() as writer:
        writer.submit(_fail)
        while not writer.idle:
            pass
        call = {"submit": lambda: writer.submit(lambda: None), "drain": writer.drain, "poll": writer.poll}[how]
        with pytest.raises(RunFailed, match="bucket b is gone"):
            call()
        call()


def test_an_error_in_the_last_work_leaves_the_block() -> None:
    with pytest.raises(RunFailed, match="bucket b is gone"), BackgroundWriter() as writer:
        writer.submit(_fail)


def test_an_error_frees_a_caller_that_waits() -> None:
    go = threading.Event()
    writer = BackgroundWriter()

    def fail_late() -> None:
        assert go.wait(WAIT)
        _fail()

    writer.submit(fail_late)
    while writer._waiting is not None:
        pass
    writer.submit(lambda: None)
    threading.Timer(0.02, go.set).start()
    with pytest.raises(RunFailed):
        writer.submit(lambda: None)
    writer.close()


def test_a_failed_block_leaves_hung_work_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_JOIN_SECONDS", 0.05)
    gate, done = Gate(), []
    with pytest.raises(KeyError), BackgroundWriter() as writer:
        writer.submit(gate)
        assert gate.started.wait(WAIT)
        writer.submit(lambda: done.append(1))
        raise KeyError("in training")
    gate.go.set()
    writer._thread.join(WAIT)
    assert not writer._thread.is_alive()
    assert done == []
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit(lambda: None)


def test_what_work_held_is_let_go_once_it_is_done() -> None:
    """A tensor that this thread frees while the interpreter shuts down would end the process with SIGABRT."""

    class Tensors:
        pass

    with BackgroundWriter() as writer:
        for end in (lambda _held: None, lambda _held: _fail()):
            held = Tensors()
            alive = weakref.ref(held)
            writer.submit(lambda held=held, end=end: end(held))
            del held
            try:
                writer.drain()
            except RunFailed as error:
                error.__traceback__ = None
            assert alive() is None


def test_a_failed_block_waits_for_work_that_is_about_to_end() -> None:
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        threading.Event().wait(0.05)
        ended.set()

    with pytest.raises(KeyError), BackgroundWriter() as writer:
        writer.submit(work)
        assert started.wait(WAIT)
        raise KeyError("in training")
    assert ended.is_set()
    assert not writer._thread.is_alive()
