"""Programs that are built from Go modules of their own, once for each version that ``go.sum`` pins."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.errors import NoCluster
from tests.cluster.paths import cache


def build(module: Path, package: str, name: str) -> Path:
    """Build a package of the module in ``module`` if it is not built yet, and return the path of the program.

    Raises:
        NoCluster: if Go is missing, or the module cannot be downloaded or compiled.
    """
    sources = [module / "go.mod", module / "go.sum", *sorted(module.glob("*.go"))]
    pinned = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = cache() / "bin"
    program = folder / f"{name}-{pinned}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise NoCluster(f"{name} cannot be built: Go is not installed; install Go 1.25 or newer")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        built = subprocess.run(
            [go, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", f"{unfinished}/{name}", package],
            cwd=module,
            env={**os.environ, "CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode != 0:
            raise NoCluster(f"{name} cannot be built:\n{built.stderr[-2000:]}")
        Path(unfinished, name).replace(program)
    return program
