"""Runs each measurement in a new process, which is forked from a process that has only imported the libraries."""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
OURS = "ours"
_ALL = ["peft", "transformers.models.llama.modeling_llama"]
_TRL = [*_ALL, "trl.trainer.sft_trainer", "datasets"]
_LIBRARIES = {
    OURS: [*_ALL, "promptintern.engine.train"],
    "hf": [*_ALL, "transformers.trainer", "datasets"],
    "trl": _TRL,
    "trl-packed": _TRL,
}
"""The libraries to import by method. TRL takes about 150 MiB, so others do not import it."""
SPINS = "GOMP_SPINCOUNT"
"""The environment variable for the number of times that a waiting OpenMP thread spins before it sleeps. Our command
line sets the variable; the other trainers leave libgomp's default."""
OUR_SPINS = "20000"


def in_new_process(measure: Callable[..., T], *arguments: Any, method: str = "hf") -> T:
    """Call ``measure`` in a new process and return the result. The output of libraries goes to standard error.

    Args:
        method: The method whose libraries are imported. For our method, the spin count of our command line is set
            before libgomp, which reads the count only once, is loaded.
    """
    return _host(method).submit(_forked, _LIBRARIES[method], measure, *arguments).result()


@cache
def _host(method: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
        initargs=(OUR_SPINS if method == OURS else None,),
    )


def _prepare(spins: str | None) -> None:
    os.environ.pop(SPINS, None)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | ({SPINS: spins} if spins else {})
    # If JAX is installed, libraries import it, and it would take most of a GPU's memory.
    os.environ["JAX_PLATFORMS"] = "cpu"


def _forked(libraries: list[str], measure: Callable[..., T], *arguments: Any) -> T:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(libraries)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_quietly, measure, *arguments).result()


def _quietly(measure: Callable[..., T], *arguments: Any) -> T:
    with contextlib.redirect_stdout(sys.stderr):
        return measure(*arguments)


def say(text: str) -> None:
    """Print ``text``, which reports progress, to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
