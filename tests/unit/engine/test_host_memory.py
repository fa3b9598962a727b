"""The memory that is left, as the kernel tells it for the machine and for the container."""

from pathlib import Path

import pytest
from promptintern.engine.host_memory import available_bytes

GIB = 2**30


def place(folder: Path, *, meminfo: str | None = None, **cgroup: str) -> tuple[Path, Path]:
    """Write the files of the kernel, those of version 1 of cgroups in a folder of their own; return both folders."""
    proc, group = folder / "proc", folder / "cgroup"
    proc.mkdir()
    (group / "memory").mkdir(parents=True)
    if "limit_in_bytes" in cgroup:
        for name, text in cgroup.items():
            (group / "memory" / f"memory.{name}").write_text(text)
        cgroup = {}
    if meminfo is not None:
        (proc / "meminfo").write_text(meminfo)
    for name, text in cgroup.items():
        (group / f"memory.{name}").write_text(text)
    return proc, group


MEMINFO = f"MemTotal:       99999999 kB\nMemFree:          100 kB\nMemAvailable:   {8 * 1024 * 1024} kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"meminfo": MEMINFO}, 8 * GIB),
        ({"meminfo": MEMINFO, "max": "max\n", "current": f"{GIB}\n"}, 8 * GIB),
        ({"meminfo": MEMINFO, "max": f"{4 * GIB}\n", "current": f"{GIB}\n"}, 3 * GIB),
        (
            {
                "meminfo": MEMINFO,
                "max": f"{4 * GIB}\n",
                "current": f"{2 * GIB}\n",
                "stat": f"anon 5\ninactive_file {GIB}\n",
            },
            3 * GIB,
        ),
        ({"meminfo": MEMINFO, "max": f"{GIB}\n", "current": f"{2 * GIB}\n"}, 0),
        ({"max": f"{4 * GIB}\n", "current": f"{GIB}\n"}, 3 * GIB),
        ({"meminfo": "MemTotal: 5 kB\n"}, None),
        ({"meminfo": MEMINFO, "limit_in_bytes": f"{3 * GIB}", "usage_in_bytes": f"{GIB}"}, 2 * GIB),
        (
            {
                "limit_in_bytes": f"{3 * GIB}",
                "usage_in_bytes": f"{2 * GIB}",
                "stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
            },
            2 * GIB,
        ),
        ({"meminfo": MEMINFO, "limit_in_bytes": "9223372036854771712", "usage_in_bytes": f"{GIB}"}, 8 * GIB),
        ({}, None),
    ],
)
def test_the_smaller_of_machine_and_container(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    assert available_bytes(*place(tmp_path, **files)) == expected


def test_this_machine_says_something() -> None:
    available = available_bytes()
    assert available is None or available >= 0
