"""The memory that this process may still take on a CPU, in a container or outside of one."""

from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Return the bytes of memory that are available to this process, or None if the system does not say so.

    This is what the kernel estimates as available, or what is left of the container's limit if that is less (cgroup
    v2, whose files cover the container alone). Files that the kernel has cached and can drop count as available.
    """
    found = [_system_bytes(proc), _container_bytes(cgroup)]
    return min((size for size in found if size is not None), default=None)


def _system_bytes(proc: Path) -> int | None:
    for line in _lines(proc / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _container_bytes(cgroup: Path) -> int | None:
    limit, used = ("".join(_lines(cgroup / name)) for name in ("memory.max", "memory.current"))
    if not limit.isdecimal() or not used.isdecimal():  # there is no container, or its limit is "max"
        return None
    cached = dict(line.split(" ", 1) for line in _lines(cgroup / "memory.stat") if " " in line).get(
        "inactive_file", "0"
    )
    return max(0, int(limit) - int(used) + int(cached))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
