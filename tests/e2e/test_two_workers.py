"""Two Ray worker pods that train together over gloo: what one does, they do."""

from pathlib import Path

from tests.e2e.begun import Seen
from tests.e2e.finished import check_answers, check_bucket, check_seen
from tests.e2e.tenant import Team
from tests.e2e.user import Shell


def test_two_worker_pods_train_one_adapter(team: Team, two: Seen, tmp_path: Path) -> None:
    assert team.condition(two.name, "Succeeded").get("status") == "True", team.told(two.name)
    assert len(two.workers) == 2
    stages = team.status(two.name)["training"]["stages"]
    assert [stage["index"] for stage in stages] == [0, 1, 2, 3]
    assert stages[-1]["score"] > 0.9
    check_seen(two.rows)
    check_bucket(team, two.name)
    check_answers(team, two.name, tmp_path / "fetched")


def test_the_command_line_told_of_it(shell: Shell, two: Seen, read: tuple[int, str]) -> None:
    """Submitted by it, and followed from before there was a pod until the end: each line once."""
    code, text = read
    assert code == 0, text
    for stage in range(1, 5):
        assert text.count(f"stage {stage}/4: trained in") == 1, text
    assert "Succeeded" in shell.status(two.name)


def test_what_its_pods_found(two: Seen) -> None:
    dashboard, uncompiled = two.said
    assert "401" in dashboard or "403" in dashboard, f"Ray's dashboard answers anybody: {dashboard}"
    assert uncompiled == "True []"
