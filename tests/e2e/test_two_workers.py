"""Two Ray worker pods that train one adapter together over gloo."""

from pathlib import Path

from tests.e2e.outcome import check_answers, check_bucket, check_progress
from tests.e2e.tenant import Team
from tests.e2e.user import Shell
from tests.e2e.watching import JobHistory


def test_two_worker_pods_train_one_adapter(team: Team, two_workers: JobHistory, tmp_path: Path) -> None:
    assert team.condition(two_workers.name, "Succeeded").get("status") == "True", team.describe(two_workers.name)
    assert len(two_workers.workers) == 2
    stages = team.status(two_workers.name)["training"]["stages"]
    assert [stage["index"] for stage in stages] == [0, 1, 2, 3]
    assert stages[-1]["score"] > 0.9
    check_progress(team, two_workers.name, two_workers.rows)
    check_bucket(team, two_workers.name)
    check_answers(team, two_workers.name, tmp_path / "fetched")


def test_the_command_line_shows_its_progress(
    shell: Shell, two_workers: JobHistory, followed_logs: tuple[int, str]
) -> None:
    """`logs -f` ran from before the first pod until the end, and showed each line once."""
    code, text = followed_logs
    assert code == 0, text
    for stage in range(1, 5):
        assert text.count(f"stage {stage}/4: trained in") == 1, text
    assert "Succeeded" in shell.status(two_workers.name)


def test_its_pods_refuse_requests_and_have_bytecode(two_workers: JobHistory) -> None:
    dashboard, uncompiled = two_workers.probe_outputs
    assert "401" in dashboard or "403" in dashboard, f"Ray's dashboard answers without a token: {dashboard}"
    assert uncompiled == "True []"
