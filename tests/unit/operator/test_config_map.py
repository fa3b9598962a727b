"""The ConfigMap from which the pods read their job, and the digest by which they verify it."""

import hashlib
import json

from hypothesis import given, settings
from promptintern_api import PromptInternJob, parse_job
from promptintern_api.job import MUTABLE_SPEC_FIELDS
from promptintern_operator.manifests.config import config_map, config_map_name, resolve
from promptintern_operator.manifests.preflight import preflight_job
from promptintern_operator.manifests.rayjob import ray_job
from promptintern_operator.settings import DefaultStorage, Settings

from tests.unit.operator.builders import job
from tests.unit.operator.jobs import STORAGE, jobs

SETTINGS = Settings(default_storage=DefaultStorage(uri="s3://all/runs", secret_name="all-s3"))
FEW = settings(max_examples=25, derandomize=True)


@FEW
@given(jobs())
def test_the_config_map_holds_the_resolved_job(any_job: PromptInternJob) -> None:
    resolved = resolve(any_job, SETTINGS)
    (text,) = config_map(resolved)["data"].values()
    held = parse_job(json.loads(text))
    assert held.spec == resolved.spec
    assert (held.metadata.name, held.metadata.uid) == (resolved.metadata.name, resolved.metadata.uid)
    assert resolved.spec.storage is not None
    assert resolved.spec.storage.uri == ("s3://team-a/runs" if any_job.spec.storage else "s3://all/runs")
    assert resolved.spec.compute.image
    assert resolved.spec.compute.ray_version
    assert resolved.status is None


@FEW
@given(jobs())
def test_the_pods_verify_the_digest_of_the_config_map_that_they_mount(any_job: PromptInternJob) -> None:
    resolved = resolve(any_job, SETTINGS)
    body = config_map(resolved)
    assert body["immutable"] is True
    digest = hashlib.sha256(body["data"]["job.json"].encode()).hexdigest()
    assert body["metadata"]["name"] == f"promptintern-{any_job.metadata.name}-{digest[:16]}"
    attempt = ray_job(resolved, SETTINGS, number=1)
    head = attempt["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    check = preflight_job(resolved, SETTINGS, generation=1)["spec"]["template"]["spec"]
    for pod in (head, check):
        assert {"name": "job", "configMap": {"name": body["metadata"]["name"]}} in pod["volumes"]
    (shipper,) = head["initContainers"]
    (checker,) = check["containers"]
    for command in (shipper["command"], checker["command"], attempt["spec"]["entrypoint"].split()):
        assert command[command.index("--sha256") + 1] == digest


def test_what_may_change_while_a_job_runs_changes_no_config_map() -> None:
    before = job(storage=STORAGE)
    changes = {"suspend": True, "retries": {"application": 9}, "activeDeadlineSeconds": 9, "ttlSecondsAfterFinished": 9}
    assert set(changes) == set(MUTABLE_SPEC_FIELDS)
    after = job(storage=STORAGE, labels={"team": "b"}, **changes)
    assert config_map_name(resolve(after, SETTINGS)) == config_map_name(resolve(before, SETTINGS))
    other = job(storage=STORAGE, training__seed=7)
    assert config_map_name(resolve(other, SETTINGS)) != config_map_name(resolve(before, SETTINGS))
