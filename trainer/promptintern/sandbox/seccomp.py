"""A seccomp filter that allows only the system calls of a single process without a network.

The process that runs a program imports this module by its path, so it may import nothing of promptintern. The filter
is a list of allowed calls, so a call that a newer kernel adds is denied. See seccomp(2) and
Documentation/userspace-api/seccomp_filter.rst in the Linux sources.
"""

import ctypes
import errno
import os
import platform
import struct

# The numbers of system calls, as in asm/unistd_64.h for x86_64 and in asm-generic/unistd.h for aarch64.
_BOTH = {
    **{"read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79)},
    **{"lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216)},
    **{"brk": (12, 214), "madvise": (28, 233), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135)},
    **{"rt_sigreturn": (15, 139), "rt_sigpending": (127, 136), "sigaltstack": (131, 132), "pread64": (17, 67)},
    **{"pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "preadv": (295, 69), "pwritev": (296, 70)},
    **{"faccessat": (269, 48), "faccessat2": (439, 439), "pipe2": (293, 59), "dup": (32, 23), "dup3": (292, 24)},
    **{"nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "times": (100, 153)},
    **{"clock_getres": (229, 114), "gettimeofday": (96, 169), "getpid": (39, 172), "gettid": (186, 178)},
    **{"getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176)},
    **{"getegid": (108, 177), "getpgid": (121, 155), "getsid": (124, 156), "uname": (63, 160), "getcwd": (79, 17)},
    **{"chdir": (80, 49), "fchdir": (81, 50), "mkdirat": (258, 34), "unlinkat": (263, 35), "renameat": (264, 38)},
    **{"renameat2": (316, 276), "linkat": (265, 37), "symlinkat": (266, 36), "openat": (257, 56)},
    **{"getdents64": (217, 61), "readlinkat": (267, 78), "statx": (332, 291), "statfs": (137, 43)},
    **{"fstatfs": (138, 44), "getrandom": (318, 278), "futex": (202, 98), "set_robust_list": (273, 99)},
    **{"get_robust_list": (274, 100), "rseq": (334, 293), "set_tid_address": (218, 96), "exit": (60, 93)},
    **{"exit_group": (231, 94), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getrusage": (98, 165)},
    **{"sysinfo": (99, 179), "ppoll": (271, 73), "pselect6": (270, 72), "epoll_create1": (291, 20)},
    **{"epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "ftruncate": (77, 46), "fallocate": (285, 47)},
    **{"fsync": (74, 82), "fdatasync": (75, 83), "fadvise64": (221, 223), "flock": (73, 32), "umask": (95, 166)},
    **{"utimensat": (280, 88), "fchmod": (91, 52), "fchmodat": (268, 53), "getitimer": (36, 102)},
    **{"setitimer": (38, 103), "rt_sigtimedwait": (128, 137), "membarrier": (324, 283), "sendto": (44, 206)},
    **{"restart_syscall": (219, 128), "recvfrom": (45, 207), "shutdown": (48, 210), "getsockopt": (55, 209)},
    **{"eventfd2": (290, 19), "copy_file_range": (326, 285), "sendfile": (40, 71)},
}
_ONLY_X86 = {
    **{"stat": 4, "lstat": 6, "open": 2, "access": 21, "pipe": 22, "dup2": 33, "mkdir": 83, "rmdir": 84, "unlink": 87},
    **{"rename": 82, "link": 86, "symlink": 88, "readlink": 89, "select": 23, "poll": 7, "epoll_create": 213},
    **{"epoll_wait": 232, "chmod": 90, "truncate": 76, "getrlimit": 97, "alarm": 37, "time": 201, "arch_prctl": 158},
    **{"pause": 34, "getpgrp": 111},
}
_CHECKED = {
    **{"clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261)},
    **{"fcntl": (72, 25), "ioctl": (16, 29), "socketpair": (53, 199)},
}
"""The calls that are allowed only with some arguments."""
_EXECVE = (59, 221)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""The column of the tables and the AUDIT_ARCH of each machine."""

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_DENY = _ERRNO | errno.EPERM
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_FIONBIO = 0x5421
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""F_DUPFD to F_SETLKW and F_DUPFD_CLOEXEC. Others can make the kernel send signals to other processes."""
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

_Instruction = tuple[int, int, int, int]


def is_supported() -> bool:
    """Return whether there is a filter for this machine."""
    return platform.system() == "Linux" and platform.machine() in _MACHINES


def install(*, may_replace_itself: bool = False) -> None:
    """Deny this process, for good, all system calls that a single process without a network does not need.

    Args:
        may_replace_itself: Whether the process may run another program in its place, which stays under this filter.

    Raises:
        OSError: if the kernel refuses the filter.
    """
    program = b"".join(
        struct.pack("=HBBI", *each) for each in _filter(os.getpid(), may_replace_itself=may_replace_itself)
    )
    memory = ctypes.create_string_buffer(program)
    # struct sock_fprog: the number of instructions, and a pointer to them.
    described = struct.pack("HP", len(program) // 8, ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(described), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses the seccomp filter")


def _filter(own: int, *, may_replace_itself: bool = False) -> list[_Instruction]:
    """Return the filter for the process ``own``, as BPF instructions (code, jump if true, jump if false, constant)."""
    column, machine = _MACHINES[platform.machine()]
    number = {name: numbers[column] for name, numbers in _CHECKED.items()}
    allowed = [numbers[column] for numbers in _BOTH.values()]
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_JUMP_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if platform.machine() == "x86_64":
        code += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _DENY)]
        allowed += _ONLY_X86.values()
    if may_replace_itself:
        allowed.append(_EXECVE[column])
    for each in allowed:
        code += [(_JUMP_EQUAL, 0, 1, each), (_RETURN, 0, 0, _ALLOW)]
    # Threads are allowed, processes are not. glibc falls back from clone3, whose flags a filter cannot see, to clone.
    code += _case(number["clone"], [(_LOAD, 0, 0, _low(0)), (_JUMP_ANY_BIT, 0, 1, _CLONE_THREAD)])
    code += [(_JUMP_EQUAL, 0, 1, number["clone3"]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for name in ("kill", "tgkill"):
        code += _case(number[name], [(_LOAD, 0, 0, _low(0)), (_JUMP_EQUAL, 0, 1, own)])
    # Limits may be read but not changed: the third argument is a null pointer.
    code += _case(
        number["prlimit64"],
        [(_LOAD, 0, 0, _low(2)), (_JUMP_EQUAL, 0, 3, 0), (_LOAD, 0, 0, _low(2) + 4), (_JUMP_EQUAL, 0, 1, 0)],
    )
    for command in _FCNTL_COMMANDS:
        code += _case(number["fcntl"], [(_LOAD, 0, 0, _low(1)), (_JUMP_EQUAL, 0, 1, command)])
    code += _case(number["ioctl"], [(_LOAD, 0, 0, _low(1)), (_JUMP_EQUAL, 0, 1, _FIONBIO)])
    # Python asks which files are terminals, and goes on if there are none.
    code += [(_JUMP_EQUAL, 0, 1, number["ioctl"]), (_RETURN, 0, 0, _ERRNO | errno.ENOTTY)]
    code += _case(number["socketpair"], [(_LOAD, 0, 0, _low(0)), (_JUMP_EQUAL, 0, 1, _AF_UNIX)])
    return [*code, (_RETURN, 0, 0, _DENY)]


def _case(number: int, check: list[_Instruction]) -> list[_Instruction]:
    """Return instructions that allow the call ``number`` if ``check`` falls through, and otherwise go on.

    The last instruction of ``check`` jumps over the one that allows the call if the check fails.
    """
    body = [*check, (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _NUMBER_AT)]
    return [(_JUMP_EQUAL, 0, len(body), number), *body]


def _low(argument: int) -> int:
    """Return the offset of the lower half of an argument, on a little-endian machine."""
    return _ARGUMENTS_AT + 8 * argument
