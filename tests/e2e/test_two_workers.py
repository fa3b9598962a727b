"""Two Ray worker pods that train together over gloo: what one does, they do."""

from pathlib import Path

from tests.e2e.begun import Seen
from tests.e2e.finished import check_answers, check_bucket, check_seen
from tests.e2e.tenant import Team


def test_two_worker_pods_train_one_adapter(team: Team, two: Seen, tmp_path: Path) -> None:
    assert team.condition(two.name, "Succeeded").get("status") == "True", team.told(two.name)
    assert len(two.workers) == 2
    stages = team.status(two.name)["training"]["stages"]
    assert [stage["index"] for stage in stages] == [0, 1, 2, 3]
    assert stages[-1]["score"] > 0.9
    check_seen(two.rows)
    check_bucket(team, two.name)
    check_answers(team, two.name, tmp_path / "fetched")


def test_what_its_pods_found(two: Seen) -> None:
    dashboard, uncompiled = two.said
    assert "401" in dashboard or "403" in dashboard, f"Ray's dashboard answers anybody: {dashboard}"
    assert uncompiled == "True []"
