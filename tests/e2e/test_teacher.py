"""A job that has queries but no written answer learns from its teacher on the cluster."""

from pathlib import Path

from promptintern.sample import sample_rows

from tests.e2e.outcome import check_answers
from tests.e2e.tenant import Team
from tests.e2e.watching import TWO_WORKERS


def test_two_worker_pods_learn_from_queries_alone(team: Team, tmp_path: Path) -> None:
    name = team.submit("queries-only", name="taught", **TWO_WORKERS)
    team.wait(name, seconds=900)
    assert team.condition(name, "Succeeded").get("status") == "True", team.describe(name)
    folder = team.run_folder(name)
    manifests = [path for path in team.files.find(f"{folder}/teacher") if path.endswith("/manifest.json")]
    assert len(manifests) == 4, "1,000 queries are four shards"
    (log,) = team.files.glob(f"{folder}/logs/{name}-a1/job-driver-*")
    text = team.files.cat(log)
    assert b"the teacher answered 1,000 of 1,000 queries" in text
    queries = sample_rows("sample://formulas/queries?world=1&rows=1000")
    assert not any(row["query"].encode() in text for row in queries), "a user's data must not be in the log"
    check_answers(team, name, tmp_path / "fetched")
