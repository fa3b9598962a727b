"""What a job's pods find when they look around."""

from tests.e2e.tenant import Team

_UNCOMPILED = """
import pandas, promptintern.run.worker, ray.train, sys
from importlib.util import cache_from_source
from pathlib import Path
names = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
files = [name for name in names if name.endswith(".py") and Path(name).exists()]
print(len(files) > 1000, [name for name in files if not Path(cache_from_source(name)).exists()])
"""


def asked_without_token(team: Team, name: str) -> str:
    """What the head says to a pod that wants to know its jobs, and has no token. Ray runs what it is given."""
    (head,) = team.pods(name, "head")
    url = f"http://{head['status']['podIP']}:8265/api/jobs/"
    return _in_worker(team, name, f"wget -S -T 20 -t 1 -O /dev/null {url} 2>&1")


def imported_without_bytecode(team: Team, name: str) -> str:
    """Whether a worker's imports are more than a thousand files, and which of them each process compiles anew."""
    return _in_worker(team, name, f"python -c '{_UNCOMPILED}'").strip()


def _in_worker(team: Team, name: str, command: str) -> str:
    return team.exec(team.pods(name, "worker")[0]["metadata"]["name"], "ray-worker", command)
