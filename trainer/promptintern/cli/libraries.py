"""What the commands do before and while they import libraries, so that these are quiet and load quickly."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_SPIN_COUNT = "20000"
"""The number of times that a waiting OpenMP thread spins before it sleeps (GOMP_SPINCOUNT): about ten microseconds. By
default, libgomp spins for milliseconds, which makes a model with short operations 50 times slower while another process
uses one of the cores. On an otherwise idle machine, this value reduces the speed by up to a tenth. The images set the
same value."""


def quiet_libraries() -> None:
    """Hide the warnings and progress bars of libraries, and let waiting threads sleep."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)  # read when torch is imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore")


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
