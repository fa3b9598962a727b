"""Packs and tracks of a session: the size of packs, lanes, shared prefixes, and slow rows."""

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.engine.packing.layout import PackLayout, SupportedLayouts
from promptintern.errors import UserError
from promptintern.pipeline.evaluation.arms import Arms
from promptintern.pipeline.inputs import load_data
from promptintern.pipeline.internalize import _Run
from promptintern.pipeline.session import Session, open_session, tokens_per_pack
from promptintern.pipeline.tracks import (
    PreparedTrack,
    layout_of,
    plan_track,
    prepare_track,
    slow_reason,
    slow_rows,
    stage_tracks,
)
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store
from promptintern_api import PromptInternJob, parse_job

from tests.tiny import tiny_job


def job(folder: Path, **training: Any) -> Any:
    document = tiny_job(folder)
    document["spec"]["training"] |= training
    return parse_job(document)


def opened(parsed_job: PromptInternJob) -> Session:
    return open_session(parsed_job, load_data(parsed_job))


@pytest.mark.parametrize(
    ("training", "fits", "size"),
    [
        ({}, None, 2048),
        ({}, 16384, 16384),
        ({"tokensPerBatch": 4096}, 16384, 4096),
        ({"tokensPerPack": 512}, 16384, 512),
    ],
)
def test_a_pack_is_as_large_as_fits_unless_the_job_says(
    training: dict[str, Any], fits: int | None, size: int, tmp_path: Path
) -> None:
    layouts = SupportedLayouts(
        best=PackLayout.PREFIX_TREE,
        for_long_rows=PackLayout.MASKED,
        attention_window=100,
        rope_scaling_limit=None,
        reason="",
        tokens_that_fit=fits,
    )
    device = torch.device("cpu")
    settings = {"tokensPerBatch": 32768, **training}
    assert tokens_per_pack(job(tmp_path, **settings), layouts, PackLayout.PREFIX_TREE, device) == size


def test_a_pack_with_a_mask_is_smaller(tmp_path: Path) -> None:
    layouts = SupportedLayouts(
        best=PackLayout.PREFIX_TREE,
        for_long_rows=PackLayout.MASKED,
        attention_window=100,
        rope_scaling_limit=None,
        reason="",
        tokens_that_fit=16384,
    )
    masked_job = job(tmp_path, tokensPerBatch=32768)
    assert tokens_per_pack(masked_job, layouts, PackLayout.MASKED, torch.device("cpu")) == 1024
    assert tokens_per_pack(masked_job, layouts, PackLayout.MASKED, torch.device("cuda")) == 8192


@pytest.mark.parametrize(("training", "measured"), [({}, 1), ({"tokensPerPack": 512}, 0), ({"packing": "Never"}, 0)])
def test_the_worker_with_the_least_memory_decides(
    training: dict[str, Any], measured: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fits(*_: Any, **__: Any) -> int:
        calls.append(1)
        return 16384

    monkeypatch.setattr("promptintern.pipeline.session.tokens_that_fit", fits)
    monkeypatch.setattr("promptintern.engine.distributed.gather_objects", lambda here: [32768, here])
    session = opened(job(tmp_path, **training))
    assert len(calls) == measured
    assert session.layouts.tokens_that_fit == (16384 if measured else None)


@pytest.mark.parametrize(
    ("training", "threads", "lanes", "capacity"),
    [
        ({}, 1, 1, 2048),
        ({}, 2, 2, 1024),
        ({}, 3, 1, 2048),
        ({}, 8, 2, 1024),
        ({"tokensPerPack": 6000}, 8, 4, 1500),
        ({"tokensPerPack": 1500}, 2, 1, 1500),
        ({"gradientCheckpointing": True}, 2, 1, 2048),
        ({"lora": {"r": 4, "alpha": 8, "dropout": 0.1}}, 2, 1, 2048),
        ({"packing": "Never"}, 2, 1, 1024),
    ],
)
def test_there_are_lanes_where_packs_have_a_shared_prefix(
    training: dict[str, Any], threads: int, lanes: int, capacity: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptintern.pipeline.session.lane_threads", lambda *_: threads)
    monkeypatch.setattr("promptintern.engine.distributed.gather_objects", lambda here: [here and 12, here])
    session = opened(job(tmp_path, tokensPerBatch=32768, **training))
    track = stage_tracks(session)[0]
    rows = session.encode_training(session.templates[0], track.shots)
    steps = plan_track(session, track, rows, layout=layout_of(session, rows), world_size=1)
    assert {(step.lanes, step.capacity) for step in steps} == {(lanes, capacity)}


@pytest.mark.parametrize(
    ("has_checkpointing", "max_pack_tokens", "has_prefix"),
    [(False, None, True), (True, None, False), (False, 1000, True), (False, 50, False)],
)
def test_a_shared_prefix_needs_no_recomputation_and_positions_within_the_limit(
    has_checkpointing: bool,
    max_pack_tokens: int | None,
    has_prefix: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("promptintern.engine.attention.cpu.CpuBackend.min_prefix_savings", 8)
    session = opened(job(tmp_path, gradientCheckpointing=has_checkpointing, tokensPerPack=200))
    assert session.adapter.model.get_base_model().is_gradient_checkpointing == has_checkpointing
    assert session.layouts.best is PackLayout.PREFIX_TREE
    session = replace(session, layouts=replace(session.layouts, max_pack_tokens=max_pack_tokens))
    track = stage_tracks(session)[0]
    rows = session.encode_training(session.templates[0], track.shots)
    steps = plan_track(session, track, rows, layout=layout_of(session, rows), world_size=1)
    assert [step.prefix_tokens > 8 for step in steps] == [has_prefix] * len(steps)


def test_a_model_without_gradient_checkpointing_is_refused_at_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.LlamaForCausalLM.supports_gradient_checkpointing", False)
    with pytest.raises(UserError, match=r"spec\.training\.gradientCheckpointing: LlamaForCausalLM does not"):
        opened(job(tmp_path, gradientCheckpointing=True))


def test_the_rows_that_slow_a_stage_down_are_counted(tmp_path: Path) -> None:
    session = opened(job(tmp_path))
    rows = session.encode_training(session.templates[0], stage_tracks(session)[0].shots)
    lengths = sorted(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    limit = lengths[len(rows) // 2]
    longer = sum(length > limit for length in lengths)
    assert 0 < longer < len(rows)
    for window, expected in ((limit, longer), (lengths[-1], 0)):
        limited = replace(session, layouts=replace(session.layouts, attention_window=window))
        assert slow_rows(limited, rows) == expected
        assert (f"longer than {window} tokens" in (slow_reason(limited, rows) or "")) == bool(expected)


def test_no_stage_is_encoded_twice_under_one_learning_rate_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schedule needs the number of steps of all stages before the first one trains."""
    session = opened(job(tmp_path, betweenStages={"learningRate": "Continue"}))
    encoded: list[int] = []

    def encode(number: int) -> Future[PreparedTrack]:
        encoded.append(number)
        ready: Future[PreparedTrack] = Future()
        ready.set_result(prepare_track(session, tracks[number]))
        return ready

    tracks = stage_tracks(session)
    store = RunStore(open_store(tmp_path.as_uri()))
    nothing: Any = None
    arms = Arms(session=session, store=store, trainer=nothing, observer=nothing, accepted=[])
    run: Any = _Run(session=session, trainer=nothing, observer=nothing, teachers=nothing, arms=arms)
    steps = run._steps_by_stage(tracks, encode)
    assert encoded == [track.template for track in tracks]
    assert steps == [len(prepare_track(session, track).steps) for track in tracks]
    assert all(steps)
