"""Events: each transition is recorded once, and is a warning only if somebody has to act."""

from promptintern_operator.plan import EventRecord, Plan

from tests.unit.operator.builders import CLUSTER, HEAD, Story, crashed, job, preflight, ray_job, waiting_pod


def _reasons(result: Plan) -> set[str]:
    return {event.reason for event in result.events}


def test_each_transition_of_a_job_is_one_event() -> None:
    story = Story()
    life: list[tuple[tuple[object, ...], set[str]]] = [
        ((), {"Checking"}),
        ((preflight(),), set()),
        ((preflight(succeeded=True),), {"Valid", "Starting"}),
        ((ray_job(deployment=""),), set()),
        ((ray_job(deployment="Initializing"), HEAD), set()),
        (CLUSTER, {"Ready", "Running"}),
        (CLUSTER, set()),
        ((ray_job(deployment="Complete", job_status="SUCCEEDED"),), {"Succeeded"}),
        ((ray_job(deployment="Complete", job_status="SUCCEEDED"),), set()),
    ]
    for objects, reasons in life:
        assert _reasons(story.reconcile(*objects, after=1)) == reasons
        assert _reasons(story.reconcile(*objects)) == set(), "and not again"


def test_a_reason_shared_by_two_conditions_is_one_event() -> None:
    story = Story()
    assert [h.reason for h in story.reconcile(preflight(succeeded=True)).events] == ["Valid", "Starting"]
    story.reconcile(*CLUSTER)
    ended = story.reconcile(ray_job(deployment="Complete", job_status="SUCCEEDED")).events
    assert [h.reason for h in ended] == ["Succeeded"], "Ended only follows from it"


def test_a_normal_run_has_no_warning() -> None:
    story = Story()
    observations: list[tuple[object, ...]] = [
        (),
        (preflight(succeeded=True),),
        (ray_job(deployment="Initializing"), HEAD),
        CLUSTER,
        (ray_job(deployment="Complete", job_status="SUCCEEDED"),),
    ]
    warnings = [h for objects in observations for h in story.reconcile(*objects).events if h.warning]
    assert warnings == []


def test_a_final_failure_is_one_warning() -> None:
    story = Story()
    story.reconcile(preflight(succeeded=True))
    story.reconcile(*CLUSTER)
    result = story.reconcile(crashed(code=2), HEAD)
    assert [h.reason for h in result.events if h.warning] == ["Refused"]


def test_a_stuck_pod_is_a_warning_that_names_it() -> None:
    story = Story()
    story.reconcile(preflight(succeeded=True))
    result = story.reconcile(
        ray_job(), waiting_pod(reason="CreateContainerConfigError", message='secret "x" not found')
    )
    assert EventRecord(reason="CreateContainerConfigError", message=story.message("ClusterReady"), warning=True) in (
        result.events
    )


def test_a_message_that_changes_alone_is_no_event() -> None:
    story = Story()
    story.reconcile(preflight(succeeded=True))
    story.reconcile(ray_job(deployment="Initializing"), HEAD)
    before = story.message("ClusterReady")
    result = story.reconcile(ray_job(deployment="Initializing"), HEAD, *CLUSTER[2:])
    assert story.message("ClusterReady") != before
    assert result.events == ()


def test_a_long_message_is_cut_for_its_event() -> None:
    story = Story()
    result = story.reconcile(refusals=["x" * 40_000])
    assert [len(h.message) for h in result.events] == [1024]
    assert len(story.message("Accepted")) == 32_768


def test_the_time_of_a_transition_stays_while_the_status_does() -> None:
    story = Story()
    story.reconcile(preflight(succeeded=True))

    def since() -> str:
        return next(str(c["lastTransitionTime"]) for c in story.status["conditions"] if c["type"] == "ClusterReady")

    first = since()
    story.reconcile(ray_job(), waiting_pod(reason="ImagePullBackOff"), after=5)
    assert since() == first, "still False, for another reason"
    story.reconcile(*CLUSTER, after=5)
    assert since() != first


def test_a_status_that_is_restored_within_a_plan_has_not_changed() -> None:
    """The cluster becomes ready in the same plan that ends the job."""
    story = Story(job=job(activeDeadlineSeconds=10))
    story.reconcile(preflight(succeeded=True))
    story.reconcile(ray_job(deployment="Initializing"), HEAD)
    since = {c["type"]: c["lastTransitionTime"] for c in story.status["conditions"]}
    story.reconcile(*CLUSTER, after=20)
    assert story.condition("ClusterReady") == ("False", "Ended")
    assert {c["type"]: c["lastTransitionTime"] for c in story.status["conditions"]}.items() >= since.items()
