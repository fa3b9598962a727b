"""The memory that this process may still take on a CPU, in a container or outside of one."""

from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Return the bytes of memory that are available to this process, or None if the system does not say so.

    This is what the kernel estimates as available, or what is left of the container's limit if that is less. Files that
    the kernel has cached and can drop count as available.
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
    """Return what is left of the container's limit, by version 2 or 1 of cgroups; None if there is no limit."""
    for folder, limit_file, used_file, cached_name in (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = ("".join(_lines(folder / name)) for name in (limit_file, used_file))
        if limit.isdecimal() and used.isdecimal():  # otherwise, the limit is "max", or there are no such files
            stat = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
            return max(0, int(limit) - int(used) + int(stat.get(cached_name, "0")))
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
