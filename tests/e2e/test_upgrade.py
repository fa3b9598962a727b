"""What platform engineers do to the release while a job runs."""

from pathlib import Path

from tests.e2e import project
from tests.e2e.short_job import SHORT, wait_until_training
from tests.e2e.tenant import SECRET, Team
from tests.e2e.terms import TermWatch, steps_lost


def test_a_running_job_survives_upgrade_uninstall_and_installation(team: Team, tmp_path: Path) -> None:
    cluster, bucket = team.cluster, team.account.bucket
    project.install(cluster, secret=SECRET, bucket=bucket, chart=project.chart_before(tmp_path))
    before = project.operators(cluster)
    name = team.submit(name="outlives", **SHORT)
    with TermWatch(team, name) as watch:
        wait_until_training(team, name, stage=0, step=1)
        project.install(cluster, secret=SECRET, bucket=bucket, **{"podAnnotations.upgraded": "yes"})
        assert before and not before & project.operators(cluster), "the upgrade did not replace the operator's pods"
        wait_until_training(team, name, stage=2, step=1)
        project.uninstall(cluster)
        assert cluster.get("crd", "promptinternjobs.promptintern.dev"), "helm uninstall removed the CRD"
        (attempt,) = team.status(name)["attempts"]
        assert cluster.get("rayjob", attempt["rayJobName"], team.namespace)
        cluster.wait_for(
            lambda: cluster.get("lease", project.RELEASE, project.SYSTEM) is None,
            timeout=120,
            what="the removal of the Lease by the garbage collector",
        )
        project.install(cluster, secret=SECRET, bucket=bucket)
        team.wait(name, seconds=900)
    assert team.condition(name, "Succeeded").get("status") == "True", team.describe(name)
    assert [attempt["outcome"] for attempt in team.status(name)["attempts"]] == ["Succeeded"]
    watch.check()
    assert steps_lost(watch.log()) == 0


def test_an_attempt_of_an_older_version_ends_for_a_reason_of_its_own(team: Team) -> None:
    """An operator before run format 2.0 put no format on its RayJobs."""
    cluster, bucket = team.cluster, team.account.bucket
    project.install(cluster, secret=SECRET, bucket=bucket)
    name = team.submit(name="older", **SHORT)
    wait_until_training(team, name, stage=0, step=1)
    project.uninstall(cluster)
    (attempt,) = team.status(name)["attempts"]
    ray_job = attempt["rayJobName"]
    cluster.kubectl("annotate", "rayjob", ray_job, "--namespace", team.namespace, "promptintern.dev/run-format-")
    project.install(cluster, secret=SECRET, bucket=bucket)
    team.wait(name, seconds=300)
    failed = team.condition(name, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "UnsupportedRunFormat"), team.describe(name)
    assert "delete the PromptInternJob and create it again" in failed["message"]
    assert [each["outcome"] for each in team.status(name)["attempts"]] == ["User"]
    cluster.wait_for(
        lambda: cluster.get("rayjob", ray_job, team.namespace) is None, timeout=180, what=f"the removal of {ray_job}"
    )
