"""Return free memory to the operating system."""

import ctypes


def trim() -> None:
    """Make the C allocator return freed memory to the operating system, which glibc does only on request.

    Python's own allocator never returns freed memory, so the image sets ``PYTHONMALLOC=malloc`` to bypass it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
