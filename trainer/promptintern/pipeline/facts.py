"""Collects the facts of a run from its files, and computes and writes the report.

`promptintern.report.facts` holds the models of these facts.
"""

import json
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version

import torch
from promptintern_api.contract import REPORT_FOLDER, REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN
from promptintern_api.data import DataSource
from promptintern_api.evaluation import Arm, Reference
from promptintern_api.training import TeacherLoss

from promptintern.engine import distributed
from promptintern.errors import UserError
from promptintern.models.load import key_value_bytes
from promptintern.pipeline.context_fit import TOO_LONG_TO_EVALUATE
from promptintern.pipeline.evaluation.coverage import COVERAGE_FOLDER
from promptintern.pipeline.evaluation.drawn_programs import read_passes
from promptintern.pipeline.evaluation.held_out import accepted_answers, evaluation_folder
from promptintern.pipeline.evaluation.latency import LATENCY_FOLDER, kept_name
from promptintern.pipeline.evaluation.retention import RETENTION_FOLDER
from promptintern.pipeline.inputs import QUERIES_DROPPED
from promptintern.pipeline.internalize import Outcome
from promptintern.pipeline.phases import read_phases
from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.lessons import TeachingCost, read_cost
from promptintern.pipeline.teaching.settings import teacher_of, top_k_of
from promptintern.pipeline.tracks import DIRECT, TUNED
from promptintern.prompt.coverage import uncovered_entries
from promptintern.report.build import build_report
from promptintern.report.facts import (
    KEPT_STAGE,
    ArmFacts,
    DataFacts,
    DrawnFacts,
    DroppedRows,
    GateFacts,
    HeldOutRow,
    JobFacts,
    LatencyFacts,
    LoraFacts,
    PriceFacts,
    RetentionFacts,
    RunFacts,
    SourceFacts,
    TeacherFacts,
    WrittenFacts,
    compressed_arm,
    facts_from_json,
    facts_to_json,
)
from promptintern.report.html import render_html
from promptintern.report.loss_curve import loss_curve
from promptintern.report.markdown import render_markdown
from promptintern.report.schema import Report, report_to_json
from promptintern.stage_record import TrackRecord
from promptintern.storage.job_file import read_job
from promptintern.storage.run import RunStore, stage_folder
from promptintern.storage.shards import TEACHER_FOLDER, total_meta
from promptintern.uris import display_uri

MAX_UNCOVERED = 1000
"""The largest number of entries of the template that the facts name as uncovered."""
FACTS = f"{REPORT_FOLDER}/facts.json"
_LIBRARIES = ("promptintern", "torch", "transformers", "peft", "ray", "tokenizers", "sacrebleu", "bm25s", "safetensors")


def store_facts(session: Session, store: RunStore, outcome: Outcome) -> None:
    """Write ``report/facts.json``, which holds all facts about the run from which the report is built."""
    direct, tuned = _trained(store, DIRECT), _trained(store, TUNED)
    stages = outcome.records
    tracks = {str(stage.index): stage for stage in stages} | {
        key: record for key, record in ((DIRECT, direct), (TUNED, tuned)) if record is not None
    }
    arms = _arms(session, store, outcome)
    full_answers = next(arm.predictions for arm in arms if arm.name == Arm.FULL_PROMPT)
    accepted = accepted_answers(session, full_answers)
    facts = RunFacts(
        job=_job(session, store),
        metrics=list(session.job.spec.evaluation.metrics),
        normalizers=list(session.job.spec.evaluation.normalizers or ()),
        max_new_tokens=session.job.spec.evaluation.max_new_tokens,
        rows=[
            HeldOutRow(id=row.id, query=row.query, accepted=list(answers))
            for row, answers in zip(session.data.eval, accepted, strict=True)
        ],
        reference=session.job.spec.evaluation.reference or Reference.ANSWERS,
        arms=arms,
        stages=stages,
        planned_stages=len(stages) if session.job.spec.schedule.is_adaptive else len(session.stages),
        direct=direct,
        tuned=tuned,
        loss=[loss_curve(key, _losses(store, key, track.term)) for key, track in tracks.items()],
        gate=GateFacts(
            max_drop=session.job.spec.evaluation.gate.max_drop,
            on_fail=session.job.spec.evaluation.gate.on_fail,
            stopped_at=outcome.stopped_at,
            kept=outcome.kept,
        ),
        uncovered=uncovered_entries(session.job.spec.prompt.template, _training_texts(session))[:MAX_UNCOVERED],
        unneeded=_unneeded(store),
        data=_data(session),
        drawn=_drawn(session, store, outcome),
        retention=_retention(store, outcome),
        teacher=_teacher(session, store),
        prices=PriceFacts(**prices.model_dump()) if (prices := session.job.spec.evaluation.prices) else None,
        attempts=[attempt for attempt in read_phases(store) if attempt.did_something],
        warnings=[*session.data.warnings, *session.warnings],
        notes=[*session.notes, *dict.fromkeys(track.slow_reason for track in tracks.values() if track.slow_reason)],
    )
    stored = _stored_facts(store)
    if stored is not None:
        with_stored_end = facts.model_copy(
            update={
                "job": facts.job.model_copy(update={"finished_at": stored.job.finished_at}),
                "attempts": stored.attempts,
            }
        )
        if with_stored_end == stored:
            return  # a finished run was started again and did nothing, so its times remain
    store.store.write(FACTS, facts_to_json(facts).encode())


def _stored_facts(store: RunStore) -> RunFacts | None:
    try:
        return facts_from_json(store.store.read(FACTS))
    except (FileNotFoundError, ValueError):
        return None


def write_report(store: RunStore) -> Report:
    """Build the report from ``report/facts.json``, and write it as JSON, as Markdown and as an HTML page.

    Raises:
        UserError: if the facts of the run are missing or damaged, or another version of this program wrote them.
    """
    read_job(store)  # refuses a run of another version, whose facts would look damaged
    try:
        facts = facts_from_json(store.store.read(FACTS))
    except FileNotFoundError:
        raise UserError.at(
            display_uri(store.store.uri),
            f"contains no finished run, because {FACTS} is missing; give the folder of a run that `promptintern run` "
            "has finished",
        ) from None
    except ValueError as error:
        raise UserError.at(
            f"{display_uri(store.store.uri)}/{FACTS}",
            f"is damaged ({str(error).splitlines()[0]}); `promptintern run` with the same job writes it again",
        ) from None
    report = build_report(facts)
    store.store.write(f"{REPORT_FOLDER}/{REPORT_JSON}", report_to_json(report).encode())
    store.store.write(f"{REPORT_FOLDER}/{REPORT_MARKDOWN}", render_markdown(report).encode())
    store.store.write(f"{REPORT_FOLDER}/{REPORT_HTML}", render_html(report).encode())
    return report


def _job(session: Session, store: RunStore) -> JobFacts:
    job, spec = session.job, session.job.spec
    created = (read_job(store) or {}).get("created")
    return JobFacts(
        name=job.metadata.name,
        namespace=job.metadata.namespace,
        run_uri=store.store.uri,
        model_uri=spec.model.uri,
        model_digest=session.folder.digest(),
        dtype=str(spec.model.dtype),
        device=_device(session.device),
        workers=distributed.world_size() if torch.distributed.is_initialized() else 0,
        key_value_bytes=key_value_bytes(session.adapter.model.get_base_model()),
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
        versions=_versions(session),
        started_at=created,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _versions(session: Session) -> dict[str, str]:
    vllm = {"vllm": session.engine.version} if session.engine else {}
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}, **vllm}


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _trained(store: RunStore, key: str) -> TrackRecord | None:
    manifest = store.stage_manifest(key)
    return store.record(key, manifest, TrackRecord) if manifest is not None else None


def _arms(session: Session, store: RunStore, outcome: Outcome) -> list[ArmFacts]:
    latency = store.committed_document(LATENCY_FOLDER, parent=outcome.kept_digest) or {}
    compressed = {compressed_arm(stage.index): stage for stage in session.stages}
    arms = []
    for name in (*(str(arm) for arm in Arm if arm is not Arm.COMPRESSED_ONLY), KEPT_STAGE, *compressed):
        document = store.committed_document(evaluation_folder(name), parent=outcome.arm_parents.get(name))
        if document is not None:
            stage = compressed.get(name)
            arms.append(
                ArmFacts(
                    name=name,
                    rate=session.templates[stage.index].achieved_rate if stage else None,
                    shots=stage.shots if stage else None,
                    predictions=document["predictions"],
                    prompt_tokens=document["promptTokens"],
                    answer_tokens=document["answerTokens"],
                    verdicts=document.get("verdicts"),
                    numbers=document.get("numbers"),
                    fault=document.get("fault"),
                    shared_tokens=document.get("sharedTokens", 0),
                    latency=LatencyFacts.model_validate(latency[name]) if name in latency else None,
                    kept_latency=(
                        LatencyFacts.model_validate(latency[kept]) if (kept := kept_name(name)) in latency else None
                    ),
                )
            )
    return arms


def _unneeded(store: RunStore) -> list[str]:
    document = store.committed_document(COVERAGE_FOLDER, parent=None)
    return list(document["unneeded"]) if document else []


def _drawn(session: Session, store: RunStore, outcome: Outcome) -> DrawnFacts | None:
    draws = session.job.spec.evaluation.pass_at_k
    if draws is None:
        return None
    names = [Arm.FULL_PROMPT, Arm.QUERY_ONLY, KEPT_STAGE]
    parents = {str(arm): outcome.arm_parents[arm] for arm in names if arm in outcome.arm_parents}
    passes = read_passes(store, draws.samples, parents)
    return DrawnFacts(samples=draws.samples, temperature=draws.temperature, k=sorted(draws.k), passes=passes)


def _retention(store: RunStore, outcome: Outcome) -> RetentionFacts | None:
    document = outcome.kept_digest and store.committed_document(RETENTION_FOLDER, parent=outcome.kept_digest)
    return RetentionFacts.model_validate(document) if document else None


def _losses(store: RunStore, key: str, term: int) -> list[float]:
    path = f"{stage_folder(key, term)}/trajectory.json"
    losses: list[float] = json.loads(store.store.read(path))["loss"]
    return losses


def _data(session: Session) -> DataFacts:
    spec, data = session.job.spec.data, session.data
    taught = session.training_queries[len(data.train) :]
    written = sum(query.is_written for query in taught)
    unanswered = session.lessons.dropped
    return DataFacts(
        train=_source(session, "train", spec.train, len(data.train)),
        queries=_source(session, "queries", spec.queries, len(taught) - written, unanswered),
        written=_written(session, written, {} if spec.queries else unanswered),
        eval=_source(session, "eval", spec.eval, len(data.eval)),
    )


def _written(session: Session, rows: int, also_dropped: Mapping[str, int]) -> WrittenFacts | None:
    study = session.self_study
    if study is None:
        return None
    dropped = {**study.dropped, **also_dropped}
    return WrittenFacts(
        drawn=study.drawn,
        valid=len(study.queries),
        rows=rows,
        dropped=[DroppedRows(reason=reason, rows=count) for reason, count in dropped.items()],
    )


def _source(
    session: Session, role: str, source: DataSource | None, rows: int, also_dropped: Mapping[str, int] | None = None
) -> SourceFacts | None:
    """Return the facts about the file ``source``, which has the given role, or None if the job has no such file."""
    if source is None:
        return None
    dropped = {
        reason.removeprefix(QUERIES_DROPPED).strip(): count
        for reason, count in session.data.dropped.items()
        if _role_of(reason) == role
    }
    return SourceFacts(
        uri=source.uri,
        digest=session.data.digests[role],
        rows=rows,
        dropped=[
            DroppedRows(reason=reason, rows=count) for reason, count in {**dropped, **(also_dropped or {})}.items()
        ],
    )


def _role_of(reason: str) -> str:
    if reason == TOO_LONG_TO_EVALUATE:
        return "eval"
    return "queries" if reason.startswith(QUERIES_DROPPED) else "train"


def _training_texts(session: Session) -> Iterator[str]:
    """Yield all queries and answers from which the run learned."""
    for row in session.data.train:
        yield from (row.query, row.answer)
    pool, written = session.pool, len(session.data.train)
    for lesson in session.lessons.lessons:
        if lesson.row >= written:
            yield from (pool[lesson.row].query, lesson.text)


def _teacher(session: Session, store: RunStore) -> TeacherFacts | None:
    teacher = teacher_of(session.job)
    if teacher is None:
        return None
    config = session.adapter.model.get_base_model().config
    top_k = None if teacher.loss is TeacherLoss.ANSWERS else top_k_of(teacher, config)
    cost = TeachingCost()
    for meta in total_meta(store, TEACHER_FOLDER):
        cost += read_cost(meta, f"{display_uri(store.store.uri)}/{TEACHER_FOLDER}")
    return TeacherFacts(
        model=teacher.model,
        loss=teacher.loss,
        top_k=top_k,
        weight=teacher.weight,
        samples=teacher.samples.count if teacher.samples else None,
        temperature=teacher.samples.temperature if teacher.samples else None,
        answer_tokens=cost.answer_tokens,
        answer_seconds=cost.answer_seconds,
        score_seconds=cost.score_seconds,
    )
