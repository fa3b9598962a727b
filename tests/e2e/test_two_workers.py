"""Two Ray worker pods that train together over gloo: what one does, they do."""

from pathlib import Path

from tests.e2e.finished import check_answers, check_bucket, check_seen
from tests.e2e.tenant import Row, Team


def asked_without_token(team: Team, name: str) -> str:
    """What the head says to a pod that wants to know its jobs, and has no token. Ray runs what it is given."""
    (head,), worker = team.pods(name, "head"), team.pods(name, "worker")[0]
    url = f"http://{head['status']['podIP']}:8265/api/jobs/"
    return team.exec(worker["metadata"]["name"], "ray-worker", f"wget -S -T 20 -t 1 -O /dev/null {url} 2>&1")


_UNCOMPILED = """
import pandas, promptintern.run.worker, ray.train, sys
from importlib.util import cache_from_source
from pathlib import Path
names = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
files = [name for name in names if name.endswith(".py") and Path(name).exists()]
print(len(files) > 1000, [name for name in files if not Path(cache_from_source(name)).exists()])
"""


def imported_without_bytecode(team: Team, name: str) -> str:
    """Whether a worker's imports are more than a thousand files, and which of them each process compiles anew."""
    worker = team.pods(name, "worker")[0]["metadata"]["name"]
    return team.exec(worker, "ray-worker", f"python -c '{_UNCOMPILED}'").strip()


def test_two_worker_pods_train_one_adapter(team: Team, tmp_path: Path) -> None:
    limits = {"data__eval__limit": 100, "evaluation__arms": ["FullPrompt", "QueryOnly"]}
    name = team.submit(name="two", compute={"workers": 2, "device": "CPU"}, **limits)
    workers: set[str] = set()
    seen: list[Row] = []
    dashboard = uncompiled = ""
    for row in team.watch(name, seconds=1200):
        seen.append(row)
        workers |= {pod["metadata"]["name"] for pod in team.pods(name, "worker")}
        if row.phase == "Training" and not dashboard:
            dashboard = asked_without_token(team, name)
            uncompiled = imported_without_bytecode(team, name)
    assert "401" in dashboard or "403" in dashboard, f"Ray's dashboard answers anybody: {dashboard}"
    assert uncompiled == "True []"
    assert team.condition(name, "Succeeded").get("status") == "True", team.told(name)
    assert len(workers) == 2
    stages = team.status(name)["training"]["stages"]
    assert [stage["index"] for stage in stages] == [0, 1, 2, 3]
    assert stages[-1]["score"] > 0.9
    check_seen(seen)
    check_bucket(team, name)
    check_answers(team, name, tmp_path / "fetched")
