"""Events: each transition is told once, and what nobody has to act on is no warning."""

from promptintern_operator.plan import Happening, Plan

from tests.unit.operator.builders import CLUSTER, HEAD, Story, crashed, job, preflight, ray_job, waiting_pod


def _told(result: Plan) -> set[str]:
    return {happening.reason for happening in result.happenings}


def test_a_jobs_life_is_told_once() -> None:
    story = Story()
    life: list[tuple[tuple[object, ...], set[str]]] = [
        ((), {"Checking"}),
        ((preflight(),), set()),
        ((preflight(succeeded=True),), {"Valid", "Starting"}),
        ((ray_job(deployment=""),), set()),
        ((ray_job(deployment="Initializing"), HEAD), set()),
        (CLUSTER, {"Ready", "Running"}),
        (CLUSTER, set()),
        ((ray_job(deployment="Complete", job_status="SUCCEEDED"),), {"Succeeded", "Ended"}),
        ((ray_job(deployment="Complete", job_status="SUCCEEDED"),), set()),
    ]
    for objects, reasons in life:
        assert _told(story.look(*objects, after=1)) == reasons
        assert _told(story.look(*objects)) == set(), "and not again"


def test_one_reason_is_told_once_even_if_two_conditions_have_it() -> None:
    story = Story()
    assert [h.reason for h in story.look(preflight(succeeded=True)).happenings] == ["Valid", "Starting"]
    story.look(*CLUSTER)
    ended = story.look(ray_job(deployment="Complete", job_status="SUCCEEDED")).happenings
    assert sorted(h.reason for h in ended) == ["Ended", "Succeeded"]


def test_a_normal_life_holds_no_warning() -> None:
    story = Story()
    looks: list[tuple[object, ...]] = [
        (),
        (preflight(succeeded=True),),
        (ray_job(deployment="Initializing"), HEAD),
        CLUSTER,
        (ray_job(deployment="Complete", job_status="SUCCEEDED"),),
    ]
    warnings = [h for objects in looks for h in story.look(*objects).happenings if h.warning]
    assert warnings == []


def test_a_final_failure_is_one_warning() -> None:
    story = Story()
    story.look(preflight(succeeded=True))
    story.look(*CLUSTER)
    result = story.look(crashed(code=2), HEAD)
    assert [h.reason for h in result.happenings if h.warning] == ["Refused"]


def test_a_stuck_pod_is_a_warning_that_names_it() -> None:
    story = Story()
    story.look(preflight(succeeded=True))
    result = story.look(ray_job(), waiting_pod(reason="CreateContainerConfigError", message='secret "x" not found'))
    assert Happening(reason="CreateContainerConfigError", message=story.says("ClusterReady"), warning=True) in (
        result.happenings
    )


def test_a_message_that_changes_alone_is_no_event() -> None:
    story = Story()
    story.look(preflight(succeeded=True))
    story.look(ray_job(deployment="Initializing"), HEAD)
    before = story.says("ClusterReady")
    result = story.look(ray_job(deployment="Initializing"), HEAD, *CLUSTER[2:])
    assert story.says("ClusterReady") != before
    assert result.happenings == ()


def test_a_long_message_is_cut_for_its_event() -> None:
    story = Story()
    result = story.look(refusals=["x" * 40_000])
    assert [len(h.message) for h in result.happenings] == [1024]
    assert len(story.says("Accepted")) == 32_768


def test_the_time_of_a_transition_stays_while_the_status_does() -> None:
    story = Story()
    story.look(preflight(succeeded=True))

    def since() -> str:
        return next(str(c["lastTransitionTime"]) for c in story.status["conditions"] if c["type"] == "ClusterReady")

    first = since()
    story.look(ray_job(), waiting_pod(reason="ImagePullBackOff"), after=5)
    assert since() == first, "still False, for another reason"
    story.look(*CLUSTER, after=5)
    assert since() != first


def test_a_status_that_is_back_by_the_end_of_a_look_has_not_changed() -> None:
    """The cluster gets ready in the very look that ends the job."""
    story = Story(job=job(activeDeadlineSeconds=10))
    story.look(preflight(succeeded=True))
    story.look(ray_job(deployment="Initializing"), HEAD)
    since = {c["type"]: c["lastTransitionTime"] for c in story.status["conditions"]}
    story.look(*CLUSTER, after=20)
    assert story.condition("ClusterReady") == ("False", "Ended")
    assert {c["type"]: c["lastTransitionTime"] for c in story.status["conditions"]}.items() >= since.items()
