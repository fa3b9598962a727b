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
        project.install(cluster, secret=SECRET, bucket=bucket)
        team.wait(name, seconds=900)
    assert team.condition(name, "Succeeded").get("status") == "True", team.describe(name)
    assert [attempt["outcome"] for attempt in team.status(name)["attempts"]] == ["Succeeded"]
    watch.check()
    assert steps_lost(watch.log()) == 0
