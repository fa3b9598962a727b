"""A Landlock ruleset that hides all files except the named folders, and everything outside this process.

The process that runs a program imports this module by its path, so it may import nothing of promptintern. See
landlock(7). The bits are those of linux/landlock.h.
"""

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from contextlib import suppress

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The numbers of the system calls, which are the same on all machines."""
_VERSION_FLAG, _RULE_PATH_BENEATH = 1, 1
_READ = 1 << 0 | 1 << 2 | 1 << 3
"""Execute (which loading a shared library needs on some kernels), read a file, read a folder."""
_BITS_BY_ABI = ((1, 13), (2, 14), (3, 15), (5, 16))
"""The number of file access rights that each version of Landlock handles, from the first one that has them."""
_BIND_AND_CONNECT, _NET_ABI = 0b11, 4
_SOCKETS_AND_SIGNALS, _SCOPE_ABI = 0b11, 6
_KILL_FIRST = "1000"
"""The highest score of a process: the kernel ends it first if the machine runs out of memory."""
_PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG = 38, 1


def version() -> int:
    """Return the version of Landlock's interface, or 0 if the kernel does not have Landlock or does not use it."""
    found = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return max(0, int(found))


def end_before_parent() -> None:
    """Make the kernel end this process when its parent ends, and before its parent if memory runs out."""
    with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 -- stays light on imports
        file.write(_KILL_FIRST)
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def restrict(*, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Hide all files from this process, for good, except those below the given paths.

    Where the kernel can (from version 4 and 6 on), the process can also neither bind nor connect TCP sockets, nor send
    signals to processes outside.

    Args:
        readable: Paths of folders and files that may be read. Missing and unreadable ones are left out.
        writable: Paths of folders in which files may also be created, changed and removed.

    Raises:
        OSError: if the kernel refuses.
    """
    abi = version()
    everything = (1 << max(bits for since, bits in _BITS_BY_ABI if since <= max(abi, 1))) - 1
    net = _BIND_AND_CONNECT if abi >= _NET_ABI else 0
    scope = _SOCKETS_AND_SIGNALS if abi >= _SCOPE_ABI else 0
    fields = [everything, net, scope][: 1 + (abi >= _NET_ABI) + (abi >= _SCOPE_ABI)]
    attributes = ctypes.create_string_buffer(struct.pack(f"={len(fields)}Q", *fields))
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(8 * len(fields)), ctypes.c_uint32(0))
    try:
        for paths, rights in ((readable, _READ), (writable, everything & ~1)):
            for path in paths:
                with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    _allow(ruleset, path, rights)
        if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses to give up new privileges")
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        of_files = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14
        wanted = rights if os.path.isdir(path) else rights & of_files  # noqa: PTH112 -- stays light on imports
        rule = ctypes.create_string_buffer(struct.pack("=Qi", wanted, file))
        _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(file)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses the Landlock ruleset")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
