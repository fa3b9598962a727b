"""Commands that run in a job's pods while it trains."""

from tests.e2e.tenant import Team

_UNCOMPILED = """
import pandas, promptintern.run.worker, ray.train, sys
from importlib.util import cache_from_source
from pathlib import Path
names = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
files = [name for name in names if name.endswith(".py") and Path(name).exists()]
print(len(files) > 1000, [name for name in files if not Path(cache_from_source(name)).exists()])
"""


def request_jobs_without_token(team: Team, name: str) -> str:
    """Request the head's list of jobs without a token. Access to that API would allow a pod to run any code in Ray."""
    (head,) = team.pods(name, "head")
    url = f"http://{head['status']['podIP']}:8265/api/jobs/"
    return _in_worker(team, name, f"wget -S -T 20 -t 1 -O /dev/null {url} 2>&1")


def list_imports_without_bytecode(team: Team, name: str) -> str:
    """Print whether a worker imports more than a thousand files, and which of them have no compiled bytecode."""
    return _in_worker(team, name, f"python -c '{_UNCOMPILED}'").strip()


def _in_worker(team: Team, name: str, command: str) -> str:
    return team.exec(team.pods(name, "worker")[0]["metadata"]["name"], "ray-worker", command)
