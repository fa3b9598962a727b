"""Two Ray worker pods that train together over gloo."""

from tests.e2e.tenant import Team


def test_two_worker_pods_train_one_adapter(team: Team) -> None:
    limits = {"data__eval__limit": 100, "evaluation__arms": ["FullPrompt", "QueryOnly"]}
    name = team.submit(name="two", compute={"workers": 2, "device": "CPU"}, **limits)
    workers: set[str] = set()
    for _ in team.watch(name, seconds=1200):
        workers |= {pod["metadata"]["name"] for pod in team.pods(name, "worker")}
    assert team.condition(name, "Succeeded").get("status") == "True", team.told(name)
    assert len(workers) == 2
    stages = team.status(name)["training"]["stages"]
    assert [stage["index"] for stage in stages] == [0, 1, 2, 3]
    assert stages[-1]["score"] > 0.9
    assert stages[-1]["promptTokens"] < 0.1 * stages[0]["promptTokens"]
