"""Run `helm lint` on the chart, or report that Helm is not available."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.errors import NoCluster
from tests.cluster.programs import program

CHART = Path(__file__).parents[2] / "charts" / "promptintern"


def main() -> int:
    """Return Helm's exit status, or 0 if Helm cannot be built here."""
    try:
        helm = program("helm")
    except NoCluster as missing:
        print(f"helm lint did not run: {missing}", file=sys.stderr)
        return 0
    return subprocess.run([str(helm), "lint", "--strict", str(CHART)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
