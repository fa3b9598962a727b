"""Measures an adaptive schedule, training on the student's own answers, and what adapters change under another prompt.

    python benchmarks/curricula.py [--benchmarks adaptive on-policy retention] [--worlds 5] [--held-out 300]
                                   [--out docs/curricula.json]

- adaptive: 128 training rows with curve Adaptive, and with curve Linear and about as many training tokens.
- on-policy: after a run on queries without answers, further epochs on the student's own answers, which the teacher
  (the base model with the full prompt) scores, and as many further epochs on the teacher's answers.
- retention: distilled and over-trained adapters under the full prompt of another world.

All in sample worlds that the base model has never seen. The tables show the mean over the worlds and its 95 %
t-interval.
"""

import argparse
import json
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptintern.answering.answers import Ending
from promptintern.evaluate.metrics import exact_match
from promptintern.libraries import quiet_libraries
from promptintern.pipeline.evaluation.held_out import answer_prompts
from promptintern.pipeline.inputs import load_data
from promptintern.pipeline.session import Session, open_session
from promptintern.pipeline.teaching.choice import base_teacher
from promptintern.pipeline.teaching.lessons import Lesson, Lessons
from promptintern.pipeline.teaching.scoring import score_rows
from promptintern.pipeline.teaching.teaching_pass import encode_where_possible, teach
from promptintern.pipeline.tracks import Track, lr_span_of, prepare_track
from promptintern.pipeline.training import TrackTrainer
from promptintern.prompt.teacher_targets import TeacherTargets
from promptintern.report.schema import Report
from promptintern.rows.types import Row
from promptintern.run.driver import run_job
from promptintern.sample import sample_template
from promptintern.sample.job import build_job
from promptintern.storage.background import BackgroundWriter
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store
from promptintern_api import parse_job
from promptintern_api.metrics import Metric
from promptintern_api.training import TeacherLoss
from quality import FIRST_WORLD, Quiet, interval, machine

Figures = dict[str, float]
LAST = {"templateRate": 0, "shots": 0}
ROUNDS = 2
"""The number of further epochs, each on new answers of the student."""
QUERIES = (64, 250)
CONTINUATIONS = {
    f"{ROUNDS} epochs on the student's answers, JensenShannon": TeacherLoss.JENSEN_SHANNON,
    f"{ROUNDS} epochs on the student's answers, ForwardKL": TeacherLoss.FORWARD_KL,
    f"{ROUNDS} epochs on the teacher's answers, ForwardKL": None,
}
"""How training continues after the first epochs, and with which loss. Each epoch has its own learning-rate schedule."""
RETENTION = {
    "1,000 queries, learning rate 0.002": {"queries": 1000, "rate": 0.002, "epochs": 5},
    "1,000 queries, learning rate 0.0005": {"queries": 1000, "rate": 0.0005, "epochs": 5},
    "1,000 queries, learning rate 0.00025": {"queries": 1000, "rate": 0.00025, "epochs": 6},
    "16 rows, learning rate 0.002, 100 epochs": {"rows": 16, "rate": 0.002, "epochs": 100},
    "16 rows, learning rate 0.00025, 800 epochs": {"rows": 16, "rate": 0.00025, "epochs": 800},
}


def job_document(world: int, held_out: int, **counts: int) -> dict[str, Any]:
    """Return a job of the sample without arms and measurements that these benchmarks do not need."""
    document = build_job(world=world, name="curricula", **counts)
    document["spec"]["data"]["eval"]["uri"] = f"sample://formulas/eval?world={world}&rows={held_out}"
    document["spec"]["evaluation"] |= {
        "latencyQueries": 0,
        "stageRows": 1,
        "gate": {"onFail": "Continue"},
        "arms": ["FullPrompt", "QueryOnly"],
    }
    return document


def run(document: Mapping[str, Any]) -> Report:
    """Run a job in a folder that is removed at the end, and return its report."""
    with tempfile.TemporaryDirectory(prefix="promptintern-curricula-") as folder:
        return run_job(parse_job(document), storage_uri=Path(folder).as_uri(), workers=0, observer=Quiet())


def query_only(report: Report) -> float:
    """Return QueryOnly's exact match in percent."""
    return 100 * next(arm.figure(Metric.EXACT_MATCH).value for arm in report.arms if arm.name == "QueryOnly")


def adaptive(world: int, held_out: int) -> Iterator[tuple[str, Figures]]:
    """Run curve Adaptive, and then curve Linear with about as many training tokens."""
    document = job_document(world, held_out, rows=128)
    document["spec"]["evaluation"]["stageRows"] = 100
    document["spec"]["training"]["epochsPerStage"] = 8
    document["spec"]["schedule"] = {"curve": "Adaptive", "shots": 3}
    first = run(document)
    tokens = sum(stage.training_tokens for stage in first.stages)
    yield "128 rows, Adaptive", figures_of(first)
    document["spec"]["schedule"] = {"curve": "Linear", "stages": 4, "shots": 3}
    document["spec"]["training"]["epochsPerStage"] = 1
    document["spec"]["training"]["epochsPerStage"] = max(1, round(tokens / tokens_of_one_epoch(document)))
    yield "128 rows, Linear, equal tokens", figures_of(run(document))


def tokens_of_one_epoch(document: Mapping[str, Any]) -> int:
    """Return the training tokens of one epoch of all stages."""
    from promptintern.commands.preview import preview

    shown = preview(parse_job(document), row=0, observer=Quiet())
    return sum(stage.plan.training_tokens for stage in shown.stages)


def figures_of(report: Report) -> Figures:
    """Return the figures of a run in stages."""
    return {
        "QueryOnly": query_only(report),
        "training tokens": sum(stage.training_tokens for stage in report.stages),
        "stages": len(report.stages),
        "discarded stages": sum(stage.accepted is False for stage in report.stages),
    }


def retention(world: int, held_out: int) -> Iterator[tuple[str, Figures]]:
    """Train adapters, and check them under the full prompt of another world."""
    for name, setting in RETENTION.items():
        counts = {kind: int(setting[kind]) for kind in ("rows", "queries") if kind in setting}
        document = job_document(world, held_out, **counts)
        document["spec"]["schedule"] = {"explicit": [{**LAST, "epochs": setting["epochs"]}]}
        document["spec"]["training"]["learningRate"] = setting["rate"]
        other = world + 100
        document["spec"]["evaluation"]["retention"] = {
            "template": sample_template(other).replace("{examples}", ""),
            "data": {"uri": f"sample://formulas/queries?world={other}&rows=200"},
        }
        report = run(document)
        facts = report.retention
        assert facts is not None
        yield (
            name,
            {
                "QueryOnly": query_only(report),
                "divergence": facts.divergence,
                "changed answers, %": 100 * facts.changed / facts.prompts,
                "passed": float(facts.passed),
            },
        )


def on_policy(world: int, held_out: int) -> Iterator[tuple[str, Figures]]:
    """Train on the teacher's answers, and then for further epochs on the student's or the teacher's answers."""
    for queries in QUERIES:
        document = job_document(world, held_out, queries=queries)
        document["spec"]["schedule"] = {"explicit": [{**LAST, "epochs": 5}]}
        job = parse_job(document)
        with tempfile.TemporaryDirectory(prefix="promptintern-curricula-") as folder, BackgroundWriter() as writer:
            session = open_session(job, load_data(job))
            store = RunStore(open_store(Path(folder).as_uri()))
            term = store.claim_term({})
            trainer = TrackTrainer(session, store, term=term, observer=Quiet(), writer=writer)
            taught = replace(
                session,
                lessons=teach(session, store, base_teacher(session), load=trainer.load, term=term, observer=Quiet()),
            )
            seconds = train_epochs(taught, trainer, "0", None, 5)
            yield f"{queries} queries", {"QueryOnly": accuracy(session), "seconds": seconds}
            for name, loss in CONTINUATIONS.items():
                began = time.perf_counter()
                parent = "0"
                for number in range(ROUNDS):
                    key = f"{loss or 'teacher'}-{number}"
                    lessons = student_lessons(session, trainer, parent, loss) if loss else taught.lessons
                    train_epochs(replace(session, lessons=lessons), trainer, key, parent, 1)
                    parent = key
                seconds = time.perf_counter() - began
                yield f"{queries} queries, then {name}", {"QueryOnly": accuracy(session), "seconds": seconds}


def train_epochs(session: Session, trainer: TrackTrainer, key: str, parent: str | None, epochs: int) -> float:
    """Train on the lessons of ``session`` with the query alone, keep the adapter as ``key``, and return the seconds."""
    began = time.perf_counter()
    track = Track(
        key=key, name=key, parent=parent, template=0, stage=None, shots=0, epochs=epochs, seed=(0, hash_of(key))
    )
    prepared = prepare_track(session, track)
    trainer.train(prepared, lr_span_of(session, track, len(prepared.steps), before=0, after=0))
    commit(trainer, key)
    return time.perf_counter() - began


def hash_of(key: str) -> int:
    """Return a number that is the same in every process."""
    return int.from_bytes(key.encode()[:7], "big")


def commit(trainer: TrackTrainer, key: str) -> None:
    """Keep the trained adapter in the run's storage."""
    with tempfile.TemporaryDirectory() as folder:
        trainer.session.adapter.save(Path(folder), base_name="sample", revision=None)
        trainer.store.commit_stage(key, term=trainer.term, local=Path(folder), parent=None, meta={})


def student_lessons(session: Session, trainer: TrackTrainer, key: str, loss: TeacherLoss) -> Lessons:
    """Let the adapter ``key`` answer all queries alone, and let the base model with the full prompt score them."""
    rows = range(len(session.data.train), len(session.pool))
    trainer.load(key)
    alone = session.encoder.encode_prompts(session.prompts_of(rows, session.templates[-1], 0))
    answers = answer_prompts(session, [list(ids) for ids in alone], use_adapter=True, name="student", observer=Quiet())
    full = list(session.prompts_of(rows, session.full_template, session.examples.shots))
    encoded = encode_where_possible(session.encoder, full, [answer.text for answer in answers])
    kept = [
        (row, answer, ids)
        for row, answer, ids in zip(rows, answers, encoded, strict=True)
        if ids is not None and answer.ending is not Ending.LENGTH
    ]
    trainer.load(None)
    scored = score_rows(session, [ids for _, _, ids in kept], 64)
    return Lessons(
        lessons=[
            Lesson(
                row=row,
                text=answer.text,
                answer_ids=array("i", ids.answer_ids),
                weight=0.0,
                targets=TeacherTargets(
                    ids=scores.ids,
                    log_probs=scores.log_probs[:, :-1],
                    rest=scores.log_probs[:, -1],
                    loss=loss,
                    weight=1.0,
                ),
            )
            for (row, answer, ids), scores in zip(kept, scored, strict=True)
        ]
    )


def accuracy(session: Session) -> float:
    """Return the exact match of the loaded adapter with the query alone, in percent."""
    prompts = session.encode_held_out(session.templates[-1], 0)
    answers = answer_prompts(session, prompts, use_adapter=True, name="held out", observer=Quiet())
    accepted = [row.answers for row in session.data.eval if isinstance(row, Row)]
    matches = exact_match([answer.text for answer in answers], accepted)
    return 100 * sum(matches) / len(matches)


BENCHMARKS: dict[str, Callable[[int, int], Iterator[tuple[str, Figures]]]] = {
    "adaptive": adaptive,
    "on-policy": on_policy,
    "retention": retention,
}


def print_table(results: Mapping[str, list[Figures]]) -> None:
    """Print the results of one benchmark as Markdown."""
    columns = list(next(iter(results.values()))[0])
    print(f"\n| setting | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name, worlds in results.items():
        cells = ["{:.4g} ± {:.2g}".format(*interval([world[column] for world in worlds])) for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Measure, print Markdown tables, and write the measurements of every world to --out after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("docs/curricula.json"))
    arguments = parser.parse_args()
    quiet_libraries()
    document: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    start = time.monotonic()
    for benchmark in arguments.benchmarks:
        results: dict[str, list[Figures]] = {}
        for world in range(FIRST_WORLD, FIRST_WORLD + arguments.worlds):
            for name, figures in BENCHMARKS[benchmark](world, arguments.held_out):
                results.setdefault(name, []).append(figures)
                elapsed = time.monotonic() - start
                print(f"[{elapsed:6.0f} s] world {world}, {name}: {figures}", file=sys.stderr, flush=True)
            document[benchmark] = {"machine": machine(), "heldOutRows": arguments.held_out, "results": results}
            arguments.out.write_text(json.dumps(document, indent=1) + "\n")
        print_table(results)


if __name__ == "__main__":
    main()
