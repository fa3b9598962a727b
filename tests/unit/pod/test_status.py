"""Telling how training goes: not too often, not too early, and the last word until it is heard."""

import time
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from promptintern.pipeline.events import Answered, Claimed, StageDone, Stepped, TrainingBegan
from promptintern.pod.progress import TrainingProgress, result_of
from promptintern.pod.status import StatusWriter
from promptintern.report.build import build_report
from promptintern.stage_record import StageRecord, Throughput, TrackPlan
from promptintern_api.metrics import Metric
from promptintern_api.training_status import TimeShares

from tests.unit.report.figures import facts, stage

STARTED, FINISHED = "2026-01-02T03:04:05+00:00", "2026-01-02T04:04:05+00:00"
PLAN = TrackPlan(
    requested_rate=1.0,
    achieved_rate=1.0,
    shots=2,
    epochs=1,
    rows=32,
    prompt_tokens_mean=300.0,
    prompt_tokens_p95=310.0,
    training_tokens=4000,
)
BEGAN = TrainingBegan(
    name="stage 1/2",
    stage=0,
    steps=10,
    done=0,
    plan=PLAN,
    computed_tokens=2000,
    loss_tokens=90,
    lanes=1,
    started_at=datetime.fromisoformat(STARTED),
)
RATES = Throughput(
    examples_per_second=2.04,
    tokens_per_second=100.0,
    computed_tokens_per_second=60.0,
    loss_tokens_per_second=10.0,
    time_shares=TimeShares(forward=1.0),
)
STEPPED = Stepped(name="stage 1/2", stage=0, done=4, steps=10, loss=0.5, seconds=2.04, throughput=RATES)
PARTS = ("data", "forward", "backward", "exchange", "optimizer", "save")
DONE = StageDone(
    record=StageRecord(
        **dict(PLAN),
        index=0,
        name="stage 1/2",
        term=1,
        steps=10,
        loss_first=2.0,
        loss_last=0.1,
        seconds=3.0,
        throughput=RATES,
        started_at=datetime.fromisoformat(STARTED),
        finished_at=datetime.fromisoformat(FINISHED),
        metric=Metric.EXACT_MATCH,
        score=0.9,
        full_prompt_score=0.95,
        scored_rows=100,
        gate="passed",
    )
)


def succeed(progress: TrainingProgress) -> None:
    """Let the run end with a report."""
    progress.succeed(build_report(facts(rows=200)))


class Server:
    """Takes what is told, or refuses for a while."""

    def __init__(self, *, refuses: int = 0) -> None:
        self.told: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._refuses = refuses

    def patch(self, status: dict[str, Any]) -> None:
        self.times.append(time.monotonic())
        if len(self.times) <= self._refuses:
            raise ConnectionError("nobody there")
        self.told.append(status)


def test_nothing_is_told_before_there_is_something_to_tell() -> None:
    server = Server()
    writer = StatusWriter(TrainingProgress(run_uri="s3://b/run"), server.patch, seconds=0.05, patience=0.2)
    writer.record(Claimed(term=3))
    time.sleep(0.2)
    assert server.told == []
    writer.close()


def test_it_is_told_at_most_once_in_a_while_and_the_last_word_counts() -> None:
    server = Server()
    writer = StatusWriter(TrainingProgress(run_uri="s3://b/run"), server.patch, seconds=0.2)
    for event in (Claimed(term=1), BEGAN, STEPPED, DONE):
        writer.record(event)
    writer.close(succeed)
    assert server.told[-1]["outputs"]["adapter"] == "s3://b/run/adapter"
    assert server.told[-1]["stages"][0]["score"] == 0.9
    assert all(later - earlier >= 0.19 for earlier, later in zip(server.times, server.times[1:], strict=False))


def test_the_last_word_is_said_again_until_it_is_heard() -> None:
    server = Server(refuses=3)
    writer = StatusWriter(TrainingProgress(run_uri="s3://b/run"), server.patch, seconds=0.05, patience=5)
    writer.record(Claimed(term=1))
    writer.record(BEGAN)
    writer.close(lambda progress: progress.fail(who="User", message="spec.x: is wrong", ray_job="small-a1"))
    assert server.told[-1]["failure"] == {"class": "User", "message": "spec.x: is wrong", "rayJob": "small-a1"}


def test_a_head_that_the_operator_has_not_seen_yet_says_its_last_word_again() -> None:
    """Until then it may not write the status, and the run may be over by then."""

    class Forbidden(Exception):  # noqa: N818
        status = 403

    server, refusals = Server(), [Forbidden()] * 3

    def patch(status: dict[str, Any]) -> None:
        if refusals:
            raise refusals.pop()
        server.patch(status)

    writer = StatusWriter(TrainingProgress(run_uri="s3://b/run"), patch, seconds=0.05, patience=5)
    writer.record(Claimed(term=1))
    writer.record(BEGAN)
    writer.close(succeed)
    assert server.told[-1]["outputs"]["report"].startswith("s3://b/run")


def test_a_failure_before_the_claim_is_told() -> None:
    server = Server()
    writer = StatusWriter(TrainingProgress(run_uri="s3://b/run"), server.patch, seconds=0.05)
    writer.close(lambda progress: progress.fail(who="User", message="spec.x: is wrong", ray_job="small-a1"))
    assert [status["failure"]["class"] for status in server.told] == ["User"]


def test_a_stop_or_a_job_that_is_gone_is_not_waited_for() -> None:
    class Gone(Exception):  # noqa: N818
        status = 404

    def refuse(_: dict[str, Any]) -> None:
        raise Gone

    def away(_: dict[str, Any]) -> None:
        raise ConnectionError

    for patch, change in ((refuse, succeed), (away, None)):
        writer = StatusWriter(TrainingProgress(run_uri="s3://b/run"), patch, seconds=0.05, patience=60)
        writer.record(Claimed(term=1))
        writer.record(BEGAN)
        began = time.monotonic()
        writer.close(change)
        assert time.monotonic() - began < 5


def test_a_stage_that_an_earlier_driver_committed_has_its_times() -> None:
    progress = TrainingProgress(run_uri="s3://b/run")
    progress.note(DONE)
    (stage,) = progress.status().to_wire()["stages"]
    assert (stage["startedAt"], stage["finishedAt"]) == ("2026-01-02T03:04:05Z", "2026-01-02T04:04:05Z")


def test_a_stage_that_earlier_workers_committed_has_its_times() -> None:
    progress = TrainingProgress(run_uri="s3://b/run")
    progress.note(DONE)
    (stage,) = progress.status().to_wire()["stages"]
    assert (stage["startedAt"], stage["finishedAt"]) == ("2026-01-02T03:04:05Z", "2026-01-02T04:04:05Z")
    assert (stage["rate"], stage["loss"], stage["score"]) == (1.0, 0.1, 0.9)


def test_the_time_left_is_told_by_the_newest_steps() -> None:
    now = 100.0
    progress = TrainingProgress(run_uri="s3://b/run", clock=lambda: now)
    progress.note(replace(BEGAN, steps=100))
    left = []
    for done in range(1, 51):
        now += 30.0 if done == 1 else 2.0  # the first step compiles
        progress.note(replace(STEPPED, done=done, steps=100))
        told = progress.status().progress
        assert told is not None
        left.append(told.eta_seconds)
    assert left[0] == 30 * 99
    assert left[-1] == 2 * 50
    assert (BEGAN.stage, left[18]) == (0, round((30 + 18 * 2) / 19 * 81, 1))


def test_how_fast_it_goes_is_told() -> None:
    progress = TrainingProgress(run_uri="s3://b/run")
    progress.note(BEGAN)
    progress.note(STEPPED)
    told = progress.status().to_wire()["progress"]
    rates = {"examplesPerSecond": 2.0, "tokensPerSecond": 100.0, "computedTokensPerSecond": 60.0}
    assert told.pop("timeShares") == {part: float(part == "forward") for part in PARTS}
    assert told == {
        "name": "stage 1/2",
        "step": 4,
        "total": 10,
        **rates,
        "lossTokensPerSecond": 10.0,
        "etaSeconds": told["etaSeconds"],
    }
    untimed = RATES.model_copy(update={"computed_tokens_per_second": None, "mfu": 0.31249})
    progress.note(replace(STEPPED, throughput=untimed))
    told = progress.status().to_wire()["progress"]
    assert "computedTokensPerSecond" not in told
    assert told["mfu"] == 0.312


def test_the_time_of_a_stage_is_that_of_its_training() -> None:
    """A stage that was suspended for an hour did not take an hour."""
    progress = TrainingProgress(run_uri="s3://b/run")
    progress.note(BEGAN)
    progress.note(STEPPED)
    assert progress.status().to_wire()["stages"][0]["seconds"] == 2.0
    progress.note(DONE)
    assert progress.status().to_wire()["stages"][0]["seconds"] == round(DONE.record.seconds, 1)


def test_a_stage_that_continues_has_no_time_left_before_its_first_step() -> None:
    progress = TrainingProgress(run_uri="s3://b/run")
    progress.note(replace(BEGAN, done=5))
    told = progress.status().progress
    assert told is not None
    assert (told.step, told.eta_seconds) == (5, None)


def test_queries_that_are_being_answered_are_told() -> None:
    progress = TrainingProgress(run_uri="s3://b/run")
    progress.note(Claimed(term=1))
    progress.note(Answered(name="teacher", done=512, rows=1000))
    told = progress.status().to_wire()
    assert told["answering"] == {"name": "teacher", "answered": 512, "total": 1000}
    progress.note(BEGAN)
    assert "answering" not in progress.status().to_wire(), "a stage is trained now"
    progress.note(Answered(name="stage 1/2", done=1, rows=100))
    assert progress.status().to_wire()["answering"]["total"] == 100
    progress.note(DONE)
    assert "answering" not in progress.status().to_wire()
    progress.note(Answered(name="arm QueryOnly", done=1, rows=100))
    progress.note(replace(BEGAN, name="arm Direct", stage=None))
    told = progress.status().to_wire()
    assert "answering" not in told, "Direct is trained now"
    assert told["progress"]["name"] == "arm Direct"
    progress.note(Answered(name="arm Direct", done=1, rows=100))
    succeed(progress)
    assert "answering" not in progress.status().to_wire()


def test_answers_before_the_first_stage_are_told() -> None:
    server = Server()
    writer = StatusWriter(TrainingProgress(run_uri="s3://b/run"), server.patch, seconds=0.05, patience=0.2)
    writer.record(Claimed(term=1))
    writer.record(Answered(name="teacher", done=512, rows=1000))
    writer.close()
    assert server.told[-1]["answering"] == {"name": "teacher", "answered": 512, "total": 1000}


@pytest.mark.parametrize("what", ["answers", "Direct"])
def test_the_time_left_is_told_for_answers_and_for_direct_too(what: str) -> None:
    now = 100.0
    progress = TrainingProgress(run_uri="s3://b/run", clock=lambda: now)
    if what == "Direct":
        progress.note(replace(BEGAN, name="arm Direct", stage=None, steps=40))
    for done in range(4, 41, 4):
        now += 2.0
        answered = Answered(name="arm FullPrompt", done=done, rows=40)
        stepped = replace(STEPPED, name="arm Direct", stage=None, done=done, steps=40)
        progress.note(answered if what == "answers" else stepped)
        told = progress.status().to_wire()
    assert told["answering" if what == "answers" else "progress"]["etaSeconds"] == 0.0
    assert ("progress" in told) == (what == "Direct")
    progress.note(Answered(name="arm QueryOnly", done=4, rows=40))
    told = progress.status().to_wire()
    assert "progress" not in told
    assert "etaSeconds" not in told["answering"], "one batch tells no speed"
    now += 3.0
    progress.note(Answered(name="arm QueryOnly", done=10, rows=40))
    assert progress.status().to_wire()["answering"]["etaSeconds"] == 15.0


def test_the_result_is_that_of_the_report() -> None:
    report = build_report(facts(rows=200))
    result = result_of(report).to_wire()
    assert (result["verdict"], result["headline"]) == (report.verdict.outcome, report.verdict.headline)
    arm, full = report.arm("QueryOnly"), report.arm("FullPrompt")
    assert arm is not None and full is not None
    figure = arm.figure(report.verdict.metric)
    assert (result["score"], result["scoreLow"], result["scoreHigh"]) == (figure.value, figure.low, figure.high)
    assert (result["tokensBefore"], result["tokensAfter"]) == (full.prompt_tokens.mean, arm.prompt_tokens.mean)
    assert result["rows"] == 200


def test_a_run_without_a_stage_that_passed_the_gate_has_no_score() -> None:
    nothing = facts(stopped_at=0, kept=None, result=None, stages=[stage(0, score=0.5, gate="failed")])
    result = result_of(build_report(nothing)).to_wire()
    assert result["verdict"] == "StoppedByGate"
    assert not {"score", "scoreLow", "scoreHigh", "tokensAfter"} & set(result)
