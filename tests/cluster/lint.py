"""`helm lint` of the chart; says so where Helm cannot be had."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.errors import NoCluster
from tests.cluster.programs import program

CHART = Path(__file__).parents[2] / "charts" / "promptintern"


def main() -> int:
    """Helm's own exit status."""
    try:
        helm = program("helm")
    except NoCluster as missing:
        print(f"helm lint did not run: {missing}", file=sys.stderr)
        return 0
    return subprocess.run([str(helm), "lint", "--strict", str(CHART)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
