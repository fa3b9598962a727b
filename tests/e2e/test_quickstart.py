"""`kubectl apply -f examples/quickstart.yaml` in a tenant's namespace leads to an adapter that answers."""

from pathlib import Path

from tests.e2e import project
from tests.e2e.outcome import check_answers, check_bucket, check_progress
from tests.e2e.tenant import Team
from tests.e2e.watching import JobHistory


def test_it_succeeds_and_kubectl_showed_its_stages(team: Team, quickstart: JobHistory) -> None:
    assert team.condition(quickstart.name, "Succeeded").get("status") == "True", team.describe(quickstart.name)
    check_progress(team, quickstart.name, quickstart.rows)


def test_all_stages_ran_in_worker_pods(team: Team, quickstart: JobHistory) -> None:
    (attempt,) = team.status(quickstart.name)["attempts"]
    assert attempt["outcome"] == "Succeeded"
    assert attempt["headPods"] == 1
    hosts = [team.files.cat(path) for path in team.files.ls(f"{team.run_folder(quickstart.name)}/terms")]
    assert len(hosts) == 1
    assert b"workers-worker" in hosts[0], "the term was claimed in a worker pod"


def test_everything_is_in_the_bucket(team: Team, quickstart: JobHistory) -> None:
    check_bucket(team, quickstart.name)


def test_the_fetched_adapter_answers(team: Team, quickstart: JobHistory, tmp_path: Path) -> None:
    check_answers(team, quickstart.name, tmp_path / "fetched")


def test_helm_test_passes(team: Team, quickstart: JobHistory) -> None:
    output = project.helm_test(team.cluster)
    assert "Phase:          Succeeded" in output, output


def test_the_ray_cluster_is_deleted(team: Team, quickstart: JobHistory) -> None:
    def is_deleted() -> bool:
        clusters = [cluster["metadata"]["name"] for cluster in team.cluster.list("rayclusters", team.namespace)]
        pods = [*team.pods(quickstart.name, "head"), *team.pods(quickstart.name, "worker")]
        return not pods and not any(cluster.startswith(f"{quickstart.name}-a1-") for cluster in clusters)

    team.cluster.wait_for(is_deleted, timeout=180, what="the deletion of the Ray cluster")
