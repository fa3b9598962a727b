"""`kubectl apply -f examples/quickstart.yaml` in a tenant's namespace, to an adapter that answers."""

from pathlib import Path

from tests.e2e.finished import check_answers, check_bucket, check_seen
from tests.e2e.tenant import Team


def test_it_succeeds_and_the_stages_were_seen_moving(team: Team, quickstart: str) -> None:
    assert team.condition(quickstart, "Succeeded").get("status") == "True", team.told(quickstart)
    check_seen(team.seen)


def test_all_stages_ran_in_worker_pods(team: Team, quickstart: str) -> None:
    (attempt,) = team.status(quickstart)["attempts"]
    assert attempt["outcome"] == "Succeeded"
    assert attempt["incarnations"] == 1
    hosts = [team.files.cat(path) for path in team.files.ls(f"{team.run_folder(quickstart)}/epochs")]
    assert len(hosts) == 1
    assert b"workers-worker" in hosts[0], "the epoch was claimed in a worker pod"


def test_everything_is_in_the_bucket(team: Team, quickstart: str) -> None:
    check_bucket(team, quickstart)


def test_the_cluster_is_given_back(team: Team, quickstart: str) -> None:
    def gone() -> bool:
        pods = [*team.pods(quickstart, "head"), *team.pods(quickstart, "worker")]
        return not pods and not team.cluster.list("rayclusters", team.namespace)

    team.cluster.wait_for(gone, timeout=180, what="the Ray cluster's end")


def test_the_fetched_adapter_answers(team: Team, quickstart: str, tmp_path: Path) -> None:
    check_answers(team, quickstart, tmp_path / "fetched")
