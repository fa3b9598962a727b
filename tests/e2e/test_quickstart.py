"""`kubectl apply -f examples/quickstart.yaml` in a tenant's namespace, to an adapter that answers."""

from pathlib import Path

from tests.e2e import project
from tests.e2e.begun import Seen
from tests.e2e.finished import check_answers, check_bucket, check_seen
from tests.e2e.tenant import Team


def test_it_succeeds_and_the_stages_were_seen_moving(team: Team, quickstart: Seen) -> None:
    assert team.condition(quickstart.name, "Succeeded").get("status") == "True", team.told(quickstart.name)
    check_seen(quickstart.rows)


def test_all_stages_ran_in_worker_pods(team: Team, quickstart: Seen) -> None:
    (attempt,) = team.status(quickstart.name)["attempts"]
    assert attempt["outcome"] == "Succeeded"
    assert attempt["headPods"] == 1
    hosts = [team.files.cat(path) for path in team.files.ls(f"{team.run_folder(quickstart.name)}/terms")]
    assert len(hosts) == 1
    assert b"workers-worker" in hosts[0], "the term was claimed in a worker pod"


def test_everything_is_in_the_bucket(team: Team, quickstart: Seen) -> None:
    check_bucket(team, quickstart.name)


def test_the_fetched_adapter_answers(team: Team, quickstart: Seen, tmp_path: Path) -> None:
    check_answers(team, quickstart.name, tmp_path / "fetched")


def test_helm_test_passes(team: Team, quickstart: Seen) -> None:
    said = project.helm_test(team.cluster)
    assert "Phase:          Succeeded" in said, said


def test_the_cluster_is_given_back(team: Team, quickstart: Seen) -> None:
    def gone() -> bool:
        clusters = [each["metadata"]["name"] for each in team.cluster.list("rayclusters", team.namespace)]
        pods = [*team.pods(quickstart.name, "head"), *team.pods(quickstart.name, "worker")]
        return not pods and not any(cluster.startswith(f"{quickstart.name}-a1-") for cluster in clusters)

    team.cluster.wait_for(gone, timeout=180, what="the Ray cluster's end")
