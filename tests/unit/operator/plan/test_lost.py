"""What is lost, and what is remembered of it."""

from promptintern_operator.plan import DeleteRayJob, StartAttempt

from tests.unit.operator.builders import HEAD, WORKER, container, crashed, ray_job, renamed, running

RUNNING = ray_job(job_status="RUNNING")


def test_an_attempt_whose_head_is_gone_ends_after_a_while() -> None:
    story = running(retries__infrastructure=1)
    story.look(RUNNING, HEAD, WORKER)
    assert story.look(RUNNING, WORKER).actions == ()
    assert story.look(RUNNING, WORKER, after=59).actions == ()
    result = story.look(RUNNING, WORKER, after=1)
    assert result.actions == (DeleteRayJob("small-a1", "ray-job-1"),)
    assert (story.attempt["outcome"], story.attempt["message"]) == (
        "Infrastructure",
        "the head pod of RayJob small-a1 was lost",
    )
    assert StartAttempt(2) in story.look(after=100).actions


def test_a_new_head_in_time_is_another_incarnation() -> None:
    story = running()
    story.look(RUNNING, HEAD, WORKER)
    story.look(RUNNING, WORKER)
    story.look(RUNNING, renamed(HEAD, name="head-2", uid="head-2"), WORKER, after=30)
    assert story.look(RUNNING, renamed(HEAD, name="head-2", uid="head-2"), WORKER, after=100).actions == ()
    assert story.attempt["incarnations"] == 2


def test_a_worker_that_ran_out_of_memory_is_named_after_its_pod_is_gone() -> None:
    killed = container("ray-worker", exit_code=137, exit_reason="OOMKilled", memory_limit="8Gi")
    story = running(retries__application=0)
    story.look(RUNNING, HEAD, renamed(WORKER, phase="Failed", containers=(killed,)))
    story.look(RUNNING, HEAD)
    story.look(crashed(), HEAD)
    assert story.condition("Failed") == ("True", "RetriesExhausted")
    assert "container ray-worker of pod worker was killed for passing its limit of 8Gi" in story.says("Failed")
