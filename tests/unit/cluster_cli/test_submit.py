"""What is sent, and what differs from the existing job."""

from pathlib import Path
from typing import Any

import pytest
from promptintern.cluster.api_errors import AlreadyExists, Conflict
from promptintern.cluster.objects import Document, Job
from promptintern.cluster.submit import Action, find_differences, find_local_paths, read_submission, submit
from promptintern.errors import Problem, UserError
from promptintern_api import parse_job

from tests.cli import write_job
from tests.unit.api.documents import small_job, with_changes
from tests.unit.cluster_cli.documents import EARLIER, stored

CACHE = {"claimName": "models", "mountPath": "/models"}


def submission(folder: Path, changes: dict[str, Any] | None = None) -> Any:
    return read_submission(write_job(folder, with_changes(small_job(), changes or {})), [])


def test_only_what_the_file_sets_is_sent(tmp_path: Path) -> None:
    sent = submission(tmp_path, {"spec.training.learningRate": "3e-4"})
    assert sent.document == with_changes(small_job(), {"spec.training.learningRate": 0.0003})


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"spec.data.train.uri": "file:///home/me/train.jsonl"}, "spec.data.train.uri", "upload it to S3"),
        ({"spec.model.uri": "file:///models/llama"}, "spec.model.uri", "/models/llama is a path on this machine"),
        ({"spec.storage": {"uri": "file:///runs"}}, "spec.storage.uri", "give an s3:// URI"),
        (
            {"spec.model.uri": "file:///models-old/a", "spec.compute.modelCache": CACHE},
            "spec.model.uri",
            "below spec.compute.modelCache.mountPath (/models)",
        ),
        (
            {"spec.model.uri": "file:///models/../etc", "spec.compute.modelCache": CACHE},
            "spec.model.uri",
            "path on this machine",
        ),
        (
            {"spec.storage": {"uri": "file:///models/runs"}, "spec.compute.modelCache": CACHE | {"readOnly": True}},
            "spec.storage.uri",
            "read-only",
        ),
    ],
)
def test_paths_that_pods_cannot_read(changes: dict[str, Any], field: str, says: str) -> None:
    problems = find_local_paths(parse_job(with_changes(small_job(), changes)))
    assert [each.where for each in problems] == [field]
    assert says in problems[0].message


def test_paths_below_the_model_cache(tmp_path: Path) -> None:
    changes = {"spec.model.uri": "file:///models/llama", "spec.compute.modelCache": CACHE}
    assert find_local_paths(parse_job(with_changes(small_job(), changes))) == []


def test_differences_know_the_defaults(tmp_path: Path) -> None:
    # The API server's defaults, and a user's change.
    existing = stored({"spec.training.seed": 0, "spec.suspend": True})
    assert find_differences(existing, submission(tmp_path)) == []
    differences = find_differences(existing, submission(tmp_path, {"spec.training.seed": 1, "spec.suspend": False}))
    assert [str(difference) for difference in differences] == [
        "spec.training.seed: 0 in the cluster, 1 in the file",
        "spec.suspend: true in the cluster, false in the file",
    ]


def test_long_texts_are_shown_where_they_differ(tmp_path: Path) -> None:
    start = "{examples}{query}" + 200 * "x"
    existing = stored({"spec.prompt.template": start + "old"})
    (difference,) = find_differences(existing, submission(tmp_path, {"spec.prompt.template": start + "new"}))
    assert 'old" in the cluster' in str(difference)
    assert 'new" in the file' in str(difference)
    assert len(str(difference)) < 200


class FakeCluster:
    """A cluster with one job."""

    namespace = "team-a"

    def __init__(self, existing: Job, *, changes: int = 0) -> None:
        self.existing = existing
        self.changes = changes
        self.patched: list[Document] = []

    def job(self, name: str) -> Job:
        return self.existing

    def create(self, document: Document, *, dry_run: bool = False) -> Job:
        raise AlreadyExists([Problem(where=document["metadata"]["name"], message="exists")])

    def replace(self, document: Document, *, dry_run: bool = False) -> Job:
        if self.changes:
            self.changes -= 1
            raise Conflict([Problem(where="small", message="changed")])
        return self.existing

    def patch(self, name: str, change: Document, *, dry_run: bool = False) -> Job:
        self.patched.append(change)
        return self.existing


def test_a_patch_holds_what_changes_and_nothing_else(tmp_path: Path) -> None:
    cluster = FakeCluster(stored(startTime=EARLIER))
    changed = submission(tmp_path, {"spec.retries.application": 4, "metadata.labels": {"a.b/c": "d"}})
    assert submit(cluster, changed).action is Action.UPDATED
    assert cluster.patched == [{"spec": {"retries": {"application": 4}}, "metadata": {"labels": {"a.b/c": "d"}}}]


def test_a_conflict_is_retried(tmp_path: Path) -> None:
    changed = submission(tmp_path, {"spec.training.seed": 1})
    assert submit(FakeCluster(stored(phase="Refused"), changes=2), changed).action is Action.REPLACED
    with pytest.raises(UserError, match="keeps changing"):
        submit(FakeCluster(stored(phase="Refused"), changes=9), changed)


@pytest.mark.parametrize(
    ("existing", "says"),
    [
        (stored({"metadata.deletionTimestamp": EARLIER}), "is being deleted"),
        (stored(phase="Training", startTime=EARLIER), "spec.training.seed: 0 in the cluster, 1 in the file"),
        (stored(phase="Failed"), r"--set metadata\.name=small-2"),
    ],
)
def test_a_job_that_cannot_be_changed(tmp_path: Path, existing: Job, says: str) -> None:
    with pytest.raises(UserError, match=says):
        submit(FakeCluster(existing), submission(tmp_path, {"spec.training.seed": 1}))


@pytest.mark.parametrize("phase", ["Refused", "Failed"])
@pytest.mark.parametrize("changes", [{}, {"metadata.labels": {"a.b/c": "d"}}])
def test_a_refused_or_failed_job_is_tried_again(tmp_path: Path, phase: str, changes: dict[str, Any]) -> None:
    """The cause may have been outside the spec, for example in a Secret."""
    cluster = FakeCluster(stored(phase=phase))
    assert submit(cluster, submission(tmp_path, changes)).action is Action.RETRIED
    (patch,) = cluster.patched
    assert patch["metadata"].get("labels", {}) == changes.get("metadata.labels", {})
    request = patch["metadata"]["annotations"]["promptintern.dev/retry"]
    submit(cluster, submission(tmp_path, changes))
    assert cluster.patched[1]["metadata"]["annotations"]["promptintern.dev/retry"] != request, "a new request"


def test_a_failed_job_whose_deadline_is_raised_is_tried_again(tmp_path: Path) -> None:
    cluster = FakeCluster(stored(phase="Failed"))
    assert submit(cluster, submission(tmp_path, {"spec.activeDeadlineSeconds": 900})).action is Action.RETRIED
    assert cluster.patched[0]["spec"] == {"activeDeadlineSeconds": 900}


@pytest.mark.parametrize(
    "existing",
    [
        stored(phase="Succeeded"),
        stored(phase="Training", startTime=EARLIER),
        stored(phase="Checking"),
        stored({"metadata.annotations": {"promptintern.dev/retry": "now"}}, phase="Refused"),
    ],
)
def test_there_is_nothing_to_try_again(tmp_path: Path, existing: Job) -> None:
    """The last one is about to be tried again."""
    assert submit(FakeCluster(existing), submission(tmp_path)).action is Action.UNCHANGED


def test_a_job_is_not_settled_until_the_operator_reacts_to_a_retry() -> None:
    annotations = {"metadata.annotations": {"promptintern.dev/retry": "now"}}
    assert not stored(annotations, phase="Failed").is_settled
    assert not stored(annotations, phase="Failed", handledRetry="before").is_settled
    assert stored(annotations, phase="Failed", handledRetry="now").is_settled
