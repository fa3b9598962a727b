"""Random lives of a job: the invariants hold whatever happens, and wherever the operator is interrupted."""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from promptintern_operator.plan import Observed, StartAttempt

from tests.unit.operator import invariants
from tests.unit.operator.simulation import ENDED, INCIDENTS, World, world

ENDS = (
    "the trainer crashes",
    "the cluster is lost",
    "the RayJob is stopped",
    "pods get stuck",
    "somebody deletes the RayJob",
    "the user suspends",
    "the user resumes",
    "the user asks for a retry",
)


GETS_ON = (
    "the API server allows",
    "the check succeeds",
    "Kueue admits",
    "KubeRay comes",
    "KubeRay works",
    "pods vanish",
)


class Life(RuleBasedStateMachine):
    """A job, and everything that can happen to it."""

    world: World

    @initialize(
        queued=st.booleans(),
        application=st.integers(0, 3),
        infrastructure=st.integers(0, 4),
        deadline=st.sampled_from([None, None, 2000]),
        ttl=st.sampled_from([None, 0, 500]),
        good_steps=st.integers(0, 6),
    )
    def begin(
        self,
        queued: bool,
        application: int,
        infrastructure: int,
        deadline: int | None,
        ttl: int | None,
        good_steps: int,
    ) -> None:
        spec = {"activeDeadlineSeconds": deadline, "ttlSecondsAfterFinished": ttl}
        retries = {"application": application, "infrastructure": infrastructure}
        self.world = world(queued=queued, retries=retries, **{k: v for k, v in spec.items() if v is not None})
        self._get_on(good_steps)

    @rule(
        names=st.lists(st.sampled_from(sorted(INCIDENTS)), max_size=2),
        seconds=st.sampled_from([0, 1, 15, 40, 1000]),
        look=st.sampled_from(["fresh", "fresh", "twice", "old", "cut off", "cut short", "none"]),
    )
    def something_happens(self, names: list[str], seconds: int, look: str) -> None:
        """The world changes, and the operator reconciles, or not, or is interrupted after it wrote the status."""
        for name in names:
            INCIDENTS[name](self.world)
        self.world.pass_time(seconds)
        if look != "none":
            done = {"cut off": 0, "cut short": 1}.get(look)
            self._reconcile(self.world.last_seen if look == "old" else self.world.cluster.seen(), done=done)
        if look == "twice":
            self._reconcile(self.world.cluster.seen())

    @rule(steps=st.integers(0, 4), end=st.sampled_from([None, *ENDS]))
    def the_job_gets_on(self, steps: int, end: str | None) -> None:
        """Without this, few lives would get beyond their first attempt."""
        self._get_on(steps)
        if end is not None:
            INCIDENTS[end](self.world)
            self._reconcile(self.world.cluster.seen())
            self.world.pass_time(30)

    @rule()
    def watches_show(self) -> None:
        self.world.last_seen = self.world.cluster.seen()

    def _get_on(self, steps: int) -> None:
        for _ in range(steps):
            for name in (
                "the API server allows",
                "the check succeeds",
                "Kueue admits",
                "KubeRay comes",
                "KubeRay works",
                "pods vanish",
            ):
                INCIDENTS[name](self.world)
            self._reconcile(self.world.cluster.seen())
            self.world.pass_time(5)

    def _reconcile(self, seen: Observed, done: int | None = None) -> None:
        if self.world.deleted:
            return
        was_over, before = self.world.is_over and not self.world.can_be_retried, self.world.status
        seen = self.world.freshest(seen)
        result = self.world.decide(seen)
        assert self.world.decide(seen) == result, "the same arguments give the same plan"
        invariants.check_plan(result, was_over=was_over)
        invariants.check_status(result.status)
        invariants.check_change(before, result.status)
        self.world.status = result.status
        if result.requeue_at is None or result.requeue_at > self.world.now:
            again = self.world.decide(seen)
            assert again.status == result.status, "a plan that was written changes nothing more"
            assert set(again.actions) <= set(result.actions)
            assert again.events == ()
        invariants.check_budgets(self.world)
        self.world.carry_out(result.actions[:done])

    @invariant()
    def the_world_is_in_order(self) -> None:
        invariants.check_world(self.world)

    def teardown(self) -> None:
        """From now on nothing fails, and the job must end, reconciled only on changes and at its requeue times."""
        if not hasattr(self, "world"):
            return
        life = self.world
        life.kuberay_comes()
        life.api_server_allows()
        if life.job.spec.suspend:
            life.change(suspend=False)
        for _ in range(60):
            if life.is_over or life.deleted:
                break
            if life.is_refused:
                life.ask_for_retry()
            self._one_fair_step()
        assert life.is_over or life.deleted, "the job never ends"
        for _ in range(4):
            self._one_fair_step()
        assert [each for each in life.cluster.ray_jobs.values() if each.deployment not in ENDED] == []
        assert life.deleted or not life.cluster.preflights
        assert life.deleted == (life.job.spec.ttl_seconds_after_finished is not None)

    def _one_fair_step(self) -> None:
        life = self.world
        before = life.cluster.seen(), life.status, life.generation
        self._reconcile(life.cluster.seen())
        life.check_ends("succeeded")
        life.kuberay_works()
        for name in [pod.name for pod in life.cluster.pods.values() if pod.role == "preflight"]:
            life.cluster.pods.pop(name)
        life.kueue_works(admit=True)
        life.ray_job_ends("SUCCEEDED")
        life.pods_vanish()
        if (life.cluster.seen(), life.status, life.generation) == before and not life.deleted:
            due = life.decide(life.freshest(life.cluster.seen())).requeue_at
            if due is not None:
                life.now = max(life.now, due)
            else:
                assert life.is_over, "the job waits without a requeue time"


Life.TestCase.settings = settings(
    max_examples=140,
    stateful_step_count=20,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestRandomLives = Life.TestCase


def test_an_undisturbed_life_is_one_attempt() -> None:
    life = world(queued=True)
    started = []
    for _ in range(12):
        result = life.decide(life.cluster.seen())
        started += [action for action in result.actions if isinstance(action, StartAttempt)]
        life.status = result.status
        life.carry_out(result.actions)
        life.check_ends("succeeded")
        life.kueue_works(admit=True)
        life.kuberay_works()
    assert started == [StartAttempt(1)]
    life.ray_job_ends("SUCCEEDED")
    life.status = life.decide(life.cluster.seen()).status
    assert life.status["phase"] == "Succeeded"
