"""Return free memory to the operating system."""

import ctypes


def trim() -> None:
    """Make the C allocator return freed memory; glibc keeps it until it is asked to.

    Python's own allocator never returns it, so the image sets ``PYTHONMALLOC=malloc`` to bypass that.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
