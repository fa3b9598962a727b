"""Facts of invented runs, for the report's tests."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from promptintern.report.facts import (
    ArmFacts,
    DataFacts,
    DroppedRows,
    GateFacts,
    HeldOutRow,
    JobFacts,
    LatencyFacts,
    LoraFacts,
    LossCurve,
    PriceFacts,
    RunFacts,
    SourceFacts,
)
from promptintern.report.loss_curve import loss_curve
from promptintern.stage_record import StageRecord, Throughput, TrackRecord
from promptintern_api.evaluation import OnGateFail
from promptintern_api.metrics import Metric
from promptintern_api.training_status import TimeShares

STARTED = datetime(2026, 3, 1, 8, tzinfo=UTC)
BOTH = (Metric.EXACT_MATCH, Metric.BLEU)
PROMPT_TOKENS = {"FullPrompt": 121, "QueryOnly": 7, "KeptStage": 62, "Direct": 7, "Base": 7}


def held_out(count: int) -> list[HeldOutRow]:
    """Rows whose answers have more than four tokens."""
    return [
        HeldOutRow(
            id=f"line {i + 1}",
            query=f"the total of column {i} for each region",
            accepted=[f"SUM ( col{i} ) BY region ( {i % 7} )"],
        )
        for i in range(count)
    ]


def arm(name: str, rows: Sequence[HeldOutRow], *, right: float, seed: int = 0, timed: bool = False) -> ArmFacts:
    """An arm that answers a share ``right`` of the rows right, in rows that are drawn with ``seed``."""
    rng = np.random.default_rng(seed)
    right_rows = set(rng.permutation(len(rows))[: round(right * len(rows))].tolist())
    tokens = PROMPT_TOKENS[name]
    return ArmFacts(
        name=name,
        predictions=[
            row.accepted[0] if i in right_rows else f"AVG ( col{i} ) BY month ( {i % 5} )" for i, row in enumerate(rows)
        ],
        prompt_tokens=[tokens + i % 3 for i in range(len(rows))],
        answer_tokens=[9 + i % 2 for i in range(len(rows))],
        latency=LatencyFacts(
            seconds_alone=[0.02 + tokens / 4000 + i / 10_000 for i in range(20)],
            batched_seconds=0.5 + tokens / 100,
            batched_queries=32,
            batch_size=32,
        )
        if timed
        else None,
    )


def throughput(*, mfu: float | None = None) -> Throughput:
    """The throughput of a training on one worker."""
    return Throughput(
        examples_per_second=19.5,
        tokens_per_second=11_200,
        computed_tokens_per_second=3_900,
        loss_tokens_per_second=390,
        mfu=mfu,
        time_shares=TimeShares(data=0.02, forward=0.4, backward=0.5, optimizer=0.07, save=0.01),
    )


def stage(index: int, *, count: int = 4, score: float = 0.9, full: float = 0.965, gate: str = "passed") -> StageRecord:
    """A stage of a linear schedule from 3 examples to none."""
    left = 1 - index / (count - 1) if count > 1 else 0.0
    tokens = 7 + 114 * left
    return StageRecord(
        index=index,
        requested_rate=round(left, 4),
        achieved_rate=round(left * 0.98, 4),
        shots=round(3 * left),
        term=1,
        epochs=20,
        steps=40,
        rows=32,
        prompt_tokens_mean=tokens,
        prompt_tokens_p95=tokens + 4,
        training_tokens=int(32 * 20 * (tokens + 10)),
        loss_first=2.1 / (index + 1),
        loss_last=0.08,
        seconds=12.5,
        throughput=throughput(),
        name=f"stage {index + 1}/{count}",
        started_at=STARTED,
        finished_at=STARTED,
        metric=Metric.EXACT_MATCH,
        score=score,
        full_prompt_score=full,
        scored_rows=100,
        gate=gate,  # type: ignore[arg-type]
    )


def losses(stages: Sequence[StageRecord], *, direct: bool) -> list[LossCurve]:
    """Curves that fall in every stage and rise a little at its start."""
    tracks = [(str(s.index), s.steps, s.loss_first) for s in stages]
    if direct:
        tracks.append(("direct", sum(s.steps for s in stages), 3.2))
    rng = np.random.default_rng(1)
    return [
        loss_curve(track, [0.06 + first * np.exp(-step / 9) * rng.uniform(0.85, 1.1) for step in range(steps)])
        for track, steps, first in tracks
    ]


def facts(
    *,
    rows: int = 200,
    full: float = 0.965,
    result: float | None = 0.97,
    direct: float | None = 0.885,
    base: float | None = 0.0,
    stages: Sequence[StageRecord] | None = None,
    metrics: Sequence[Metric] = (Metric.EXACT_MATCH,),
    stopped_at: int | None = None,
    kept: int | None = 3,
    max_drop: float = 0.05,
    prices: bool = True,
    warnings: Sequence[str] = (),
) -> RunFacts:
    """A whole run. ``result`` is the share that QueryOnly (or the kept stage) answers right.

    BLEU is left out by default, because its intervals take most of a test's time.
    """
    held_out_rows = held_out(rows)
    trained = (
        list(stages) if stages is not None else [stage(i, score=s) for i, s in enumerate((0.95, 0.96, 0.93, 0.97))]
    )
    name = "QueryOnly" if stopped_at is None else "KeptStage"
    arms = [arm("FullPrompt", held_out_rows, right=full, timed=True)]
    arms += [arm(name, held_out_rows, right=result, seed=1, timed=True)] if result is not None else []
    arms += [arm("Direct", held_out_rows, right=direct, seed=2)] if direct is not None else []
    arms += [arm("Base", held_out_rows, right=base, seed=3)] if base is not None else []
    return RunFacts(
        job=JobFacts(
            name="quickstart",
            namespace="team-a",
            run_uri="s3://team-a/runs/team-a/quickstart-1a2b3c4d",
            model_uri="sample://formulas",
            model_digest="5b" * 32,
            dtype="float32",
            device="CPU, 2 threads",
            workers=0,
            lora=LoraFacts(r=32, alpha=64, dropout=0, target_modules="all-linear"),
            learning_rate=0.002,
            seeds={"training": 0},
            settings={"compressor": "SelfInformation", "retriever": "BM25", "tokens per batch": "4096"},
            versions={"promptintern": "0.1.0", "python": "3.11.9", "torch": "2.9.0", "transformers": "5.1.0"},
            started_at="2026-03-01T08:00:00+00:00",
            finished_at="2026-03-01T08:04:10+00:00",
        ),
        metrics=list(metrics),
        max_new_tokens=64,
        rows=held_out_rows,
        arms=arms,
        stages=trained,
        planned_stages=4,
        direct=TrackRecord(
            epochs=80,
            steps=160,
            rows=32,
            prompt_tokens_mean=7.0,
            prompt_tokens_p95=9.0,
            training_tokens=43_520,
            loss_first=3.2,
            loss_last=0.07,
            seconds=21.0,
            throughput=throughput(mfu=0.314),
            name="arm Direct",
            term=1,
            requested_rate=0,
            achieved_rate=0,
            shots=0,
            started_at=STARTED,
            finished_at=STARTED,
        )
        if direct is not None
        else None,
        loss=losses(trained, direct=direct is not None),
        gate=GateFacts(max_drop=max_drop, on_fail=OnGateFail.STOP, stopped_at=stopped_at, kept=kept),
        data=DataFacts(
            train=SourceFacts(
                uri="sample://formulas/train",
                digest="a1" * 32,
                rows=32,
                dropped=[DroppedRows(reason="query also held out", rows=2)],
            ),
            eval=SourceFacts(uri="sample://formulas/eval", digest="b2" * 32, rows=rows),
        ),
        prices=PriceFacts(input_per_million=3.0, output_per_million=15.0, currency="USD") if prices else None,
        warnings=list(warnings),
        notes=["Packing is off, because spec.training.packing is Never, so every row is computed alone."],
    )
