"""Memory that goes back to the system."""

import ctypes


def trim() -> None:
    """Have C's allocator return what was freed: glibc keeps it until it is asked.

    Python's own allocator keeps it in any case; the image sets ``PYTHONMALLOC=malloc``, so that it is not used.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
