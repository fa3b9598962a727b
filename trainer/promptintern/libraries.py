"""What processes do before and while they import libraries, so that these are quiet and load quickly."""

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_SPIN_COUNT = "20000"
"""The number of times that a waiting OpenMP thread spins before it sleeps (GOMP_SPINCOUNT): about ten microseconds. By
default, libgomp spins for milliseconds, which makes a model with short operations 50 times slower while another process
uses one of the cores. On an otherwise idle machine, this value reduces the speed by up to a tenth. The images set the
same value."""


def quiet_libraries() -> None:
    """Hide the warnings, logs and progress bars of libraries, and let waiting threads sleep.

    Call this before transformers is imported. Errors that libraries log are still shown.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)  # read when torch is imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore")
    printed = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for handler in logging.getLogger().handlers:
        # The level of a logger would not do, because some libraries set it themselves. Ray's files keep everything.
        if isinstance(handler, logging.StreamHandler) and handler.stream in printed:
            handler.setLevel(logging.ERROR)


@contextmanager
def without_collection() -> Iterator[None]:
    """Switch the garbage collector off inside the block, which imports libraries or loads a model.

    What imports create lives until the process ends. The collector would search it again and again, which takes a fifth
    of the CPU time of importing torch and transformers.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
