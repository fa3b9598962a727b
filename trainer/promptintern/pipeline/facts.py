"""From a run's files to its report."""

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from promptintern_api.contract import JOB_FILE, REPORT_FOLDER, REPORT_HTML, REPORT_JSON
from promptintern_api.evaluation import Arm

from promptintern.engine import distributed
from promptintern.errors import UserError
from promptintern.pipeline.internalize import Outcome, evaluation_folder
from promptintern.pipeline.latency import FOLDER as LATENCY
from promptintern.pipeline.session import Session
from promptintern.pipeline.tracks import DIRECT
from promptintern.report.build import build_report
from promptintern.report.facts import (
    KEPT_STAGE,
    ArmFacts,
    DataFacts,
    DroppedRows,
    GateFacts,
    HeldOutRow,
    JobFacts,
    LatencyFacts,
    LoraFacts,
    LossPoint,
    PriceFacts,
    RunFacts,
    SourceFacts,
    StageFacts,
    TrackFacts,
    facts_from_json,
    facts_to_json,
)
from promptintern.report.html import render_html
from promptintern.report.schema import Report, report_to_json
from promptintern.storage.manifest import Manifest
from promptintern.storage.run import RunStore
from promptintern.uris import display_uri

FACTS = f"{REPORT_FOLDER}/facts.json"
_LIBRARIES = ("promptintern", "torch", "transformers", "peft", "ray", "tokenizers", "sacrebleu", "bm25s", "safetensors")
_MAX_POINTS = 400
"""Points of a track's loss curve; longer ones are thinned evenly, first and last step stay."""


def store_facts(session: Session, store: RunStore, outcome: Outcome) -> None:
    """Write everything that the report is built from to ``report/facts.json``."""
    manifests = {s.index: m for s in session.stages if (m := store.stage_manifest(str(s.index))) is not None}
    direct = store.stage_manifest(DIRECT)
    facts = RunFacts(
        job=_job(session, store),
        metrics=list(session.job.spec.evaluation.metrics),
        max_new_tokens=session.job.spec.evaluation.max_new_tokens,
        rows=[HeldOutRow(id=row.id, query=row.query, accepted=list(row.answers)) for row in session.data.eval],
        arms=_arms(store, outcome),
        stages=[_stage(index, manifest) for index, manifest in manifests.items()],
        planned_stages=len(session.stages),
        direct=TrackFacts(**_track(direct)) if direct else None,
        loss=[
            point
            for key, manifest in [*((str(i), m) for i, m in manifests.items()), *([(DIRECT, direct)] if direct else [])]
            for point in _losses(store, key, manifest)
        ],
        gate=GateFacts(
            max_drop=session.job.spec.evaluation.gate.max_drop,
            on_fail=session.job.spec.evaluation.gate.on_fail,
            stopped_at=outcome.stopped_at,
            kept=outcome.kept,
        ),
        data=_data(session),
        prices=PriceFacts(**prices.model_dump()) if (prices := session.job.spec.evaluation.prices) else None,
        warnings=[*session.data.warnings, *session.warnings],
        notes=[*session.notes, *_slower([*manifests.values(), *([direct] if direct else [])])],
    )
    known = _known(store)
    if known is not None:
        same = facts.model_copy(update={"job": facts.job.model_copy(update={"finished_at": known.job.finished_at})})
        if same == known:
            return  # a finished run, started once more: nothing was done, and it ended when it ended
    store.store.write(FACTS, facts_to_json(facts).encode())


def _slower(tracks: Sequence[Manifest]) -> list[str]:
    """Why some were not computed as the others, each reason once."""
    return list(dict.fromkeys(str(why) for track in tracks if (why := track.meta.get("slower"))))


def _known(store: RunStore) -> RunFacts | None:
    try:
        return facts_from_json(store.store.read(FACTS))
    except (FileNotFoundError, ValueError):
        return None


def write_report(store: RunStore) -> Report:
    """Build ``report/report.json`` and ``report/report.html`` from ``report/facts.json``.

    Raises:
        UserError: if the run has no facts yet.
    """
    try:
        facts = facts_from_json(store.store.read(FACTS))
    except FileNotFoundError:
        raise UserError.at(
            display_uri(store.store.uri),
            f"holds no finished run ({FACTS} is missing); is it the run's folder? `promptintern run` finishes a run",
        ) from None
    except ValueError as error:
        raise UserError.at(
            f"{display_uri(store.store.uri)}/{FACTS}",
            f"is damaged ({str(error).splitlines()[0]}); `promptintern run` with the same job makes it again",
        ) from None
    report = build_report(facts)
    store.store.write(f"{REPORT_FOLDER}/{REPORT_JSON}", report_to_json(report).encode())
    store.store.write(f"{REPORT_FOLDER}/{REPORT_HTML}", render_html(report).encode())
    return report


def _job(session: Session, store: RunStore) -> JobFacts:
    job, spec = session.job, session.job.spec
    created = (store.read_json(JOB_FILE) or {}).get("created")
    return JobFacts(
        name=job.metadata.name,
        namespace=job.metadata.namespace,
        run_uri=store.store.uri,
        model_uri=spec.model.uri,
        model_digest=session.folder.digest(),
        dtype=str(spec.model.dtype),
        device=_device(session.device),
        workers=distributed.world_size() if torch.distributed.is_initialized() else 0,
        lora=LoraFacts(**spec.training.lora.model_dump()),
        learning_rate=spec.training.learning_rate,
        seeds={"training": spec.training.seed},
        settings={
            "compressor": str(spec.prompt.compressor.kind),
            "retriever": str(spec.prompt.retriever.kind),
            "optimizer between stages": str(spec.training.between_stages.optimizer),
            "learning rate between stages": str(spec.training.between_stages.learning_rate),
            "learning rate schedule": str(spec.training.lr_schedule),
            "tokens per batch": str(spec.training.tokens_per_batch),
            **({"rows per batch": str(spec.training.rows_per_batch)} if spec.training.rows_per_batch else {}),
            "Direct's budget": str(spec.evaluation.direct_budget),
        },
        versions={"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        started_at=created,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _arms(store: RunStore, outcome: Outcome) -> list[ArmFacts]:
    latency = store.committed_document(LATENCY, parent=outcome.result) or {}
    arms = []
    for name in (*map(str, Arm), KEPT_STAGE):
        document = store.committed_document(evaluation_folder(name), parent=outcome.arms.get(name))
        if document is not None:
            arms.append(
                ArmFacts(
                    name=name,
                    predictions=document["predictions"],
                    prompt_tokens=document["promptTokens"],
                    answer_tokens=document["answerTokens"],
                    latency=LatencyFacts.model_validate(latency[name]) if name in latency else None,
                )
            )
    return arms


def _track(manifest: Manifest) -> dict[str, Any]:
    meta = manifest.meta
    return {
        "epochs": meta["epochs"],
        "steps": meta["steps"],
        "rows": meta["rows"],
        "prompt_tokens_mean": meta["promptTokensMean"],
        "prompt_tokens_p95": meta["promptTokensP95"],
        "training_tokens": meta["trainingTokens"],
        "loss_first": meta["lossFirst"],
        "loss_last": meta["lossLast"],
        "seconds": meta["seconds"],
        "speed": meta.get("speed"),
    }


def _stage(index: int, manifest: Manifest) -> StageFacts:
    meta: dict[str, Any] = dict(manifest.meta)
    return StageFacts(
        index=index,
        rate_asked=meta["rateAsked"],
        rate_achieved=meta["rateAchieved"],
        shots=meta["shots"],
        term=manifest.term,
        score=meta["score"],
        full_prompt_score=meta["fullPromptScore"],
        scored_rows=meta["scoredRows"],
        gate=meta["gate"],
        **_track(manifest),
    )


def _losses(store: RunStore, key: str, manifest: Manifest) -> list[LossPoint]:
    path = f"stages/{key}/t{manifest.term}/adapter/trajectory.json"
    losses: list[float] = json.loads(store.store.read(path))["loss"]
    return [LossPoint(track=key, step=i + 1, loss=losses[i]) for i in thinned(len(losses), _MAX_POINTS)]


def thinned(count: int, most: int) -> Sequence[int]:
    """At most ``most`` of the indices 0 to ``count - 1``, evenly, with the first and the last."""
    if count <= most:
        return range(count)
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _data(session: Session) -> DataFacts:
    spec, data = session.job.spec.data, session.data
    held_out = "too long to evaluate"
    dropped = [DroppedRows(reason=reason, rows=rows) for reason, rows in data.dropped.items()]
    return DataFacts(
        train=SourceFacts(
            uri=spec.train.uri,
            digest=data.digests["train"],
            rows=len(data.train),
            dropped=[d for d in dropped if d.reason != held_out],
        ),
        eval=SourceFacts(
            uri=spec.eval.uri,
            digest=data.digests["eval"],
            rows=len(data.eval),
            dropped=[d for d in dropped if d.reason == held_out],
        ),
    )
