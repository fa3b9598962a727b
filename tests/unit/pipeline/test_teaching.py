"""The teaching pass: what the teacher's answers become, and what is refused when they are read again."""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from promptintern.commands.validate import check_job
from promptintern.errors import RunFailed, UserError
from promptintern.pipeline.events import Note, ShardStored
from promptintern.pipeline.inputs import load_data, stages_of
from promptintern.pipeline.session import Session, open_session
from promptintern.pipeline.teaching.choice import TeachingModel, base_teacher, teacher_of_stage
from promptintern.pipeline.teaching.lessons import (
    Distributions,
    Lessons,
    Shard,
    TeacherAnswer,
    TeachingCost,
    UnansweredQuery,
    read_lessons,
    write_shard,
)
from promptintern.pipeline.teaching.stage_teachers import StageTeachers
from promptintern.pipeline.teaching.teaching_pass import DISAGREEING, EMPTY, UNFINISHED, encode_where_possible, teach
from promptintern.sample.job import build_job
from promptintern.stage_record import StageRecord
from promptintern.storage.run import RunStore
from promptintern.storage.shards import TEACHER_FOLDER, commit_shard, remove_leftovers, shard_manifest
from promptintern.storage.store import open_store
from promptintern_api import parse_job
from promptintern_api.training import Teacher, TeacherLoss
from safetensors.numpy import save_file

from tests.tiny import tiny_job, write_tiny_model
from tests.unit.pipeline.recorder import Recorder


def session_of(rows: int = 0, teacher: dict[str, Any] | None = None, **evaluation: Any) -> Session:
    job = build_job(world=4, rows=rows, queries=12, name="taught")
    if teacher:
        job["spec"]["training"]["teacher"] = teacher
    job["spec"]["data"]["eval"]["uri"] = "sample://formulas/eval?world=4&rows=4"
    job["spec"]["evaluation"] |= evaluation
    parsed = parse_job(job)
    return open_session(parsed, load_data(parsed))


def store_in(folder: Path) -> tuple[RunStore, int]:
    store = RunStore(open_store(folder.as_uri()))
    return store, store.claim_term({})


def taught(session: Session, folder: Path, model: TeachingModel | None = None) -> tuple[Session, Recorder]:
    """Return the session with all lessons of ``model``, or of the base model by default."""
    store, term = store_in(folder)
    recorder = Recorder()
    lessons = teach(
        session,
        store,
        model or base_teacher(session),
        load=lambda key: None,
        term=term,
        observer=recorder,  # type: ignore[arg-type]
    )
    return replace(session, lessons=lessons), recorder


def test_the_lessons_are_the_answers_of_the_full_prompt(tmp_path: Path) -> None:
    session, recorder = taught(session_of(), tmp_path)
    train = load_data(parse_job(build_job(world=4, rows=12))).train
    assert [session.pool[lesson.row].query for lesson in session.lessons.lessons] == [r.query for r in train]
    assert [lesson.text for lesson in session.lessons.lessons] == [row.answer for row in train]
    assert ShardStored(teacher="base", number=0) in recorder.events
    assert Note(text="the teacher answered 12 of 12 queries") in recorder.events
    assert session.lessons.cost.answer_tokens == sum(len(lesson.answer_ids) for lesson in session.lessons.lessons)
    rows = session.encode_training(session.templates[-1], 0)
    assert all(row.weight == 0 and row.teacher is not None for row in rows)
    assert all(len(row.teacher.ids) == len(row.answer_ids) for row in rows if row.teacher)
    assert session.tokenizer.decode(list(rows[0].answer_ids[:-1])) == train[0].answer


def test_written_answers_come_first_and_keep_their_weight(tmp_path: Path) -> None:
    session, _ = taught(session_of(rows=5), tmp_path)
    rows = session.encode_training(session.templates[-1], 0)
    assert [row.teacher is None for row in rows] == [True] * 5 + [False] * 7  # 5 of the 12 queries are also rows
    assert [row.weight for row in rows] == [1.0] * 5 + [0.0] * 7
    assert len(session.training_queries) == len(rows)


def test_a_stage_teaches_written_answers_too_and_they_keep_their_cross_entropy(tmp_path: Path) -> None:
    session = session_of(rows=5, teacher={"model": "PreviousStage", "topK": 8})
    stage = replace(base_teacher(session), name="stage-0", title="teacher (stage 1)", stage="0", digest="abc")
    session, recorder = taught(session, tmp_path, stage)
    assert Note(text="the teacher (stage 1) answered 7 of 7 queries") in recorder.events
    assert [lesson.row for lesson in session.lessons.lessons] == list(range(12))
    rows = session.encode_training(session.templates[-1], 0)
    assert [row.weight for row in rows] == [1.0] * 5 + [0.0] * 7
    assert all(row.teacher is not None and len(row.teacher.ids) == len(row.answer_ids) for row in rows)
    plain = replace(session, lessons=Lessons()).encode_training(session.templates[-1], 0)
    assert [bytes(row.answer_ids) for row in plain] == [bytes(row.answer_ids) for row in rows[:5]]
    again, _ = taught(replace(session, lessons=Lessons()), tmp_path, replace(stage, digest="trained again"))
    assert json.loads((tmp_path / "teacher/stage-0/000000/manifest.json").read_text())["parent"] == "trained again"
    assert [lesson.text for lesson in again.lessons.lessons] == [lesson.text for lesson in session.lessons.lessons]


def test_a_stage_teaches_only_queries_if_only_answers_are_learned(tmp_path: Path) -> None:
    session = session_of(rows=5, teacher={"model": "PreviousStage", "loss": "Answers"})
    stage = replace(base_teacher(session), name="stage-0", stage="0", digest="abc")
    session, _ = taught(session, tmp_path, stage)
    assert [lesson.row for lesson in session.lessons.lessons] == list(range(5, 12))


def test_the_lessons_of_one_teacher_are_in_memory_at_a_time() -> None:
    session: Any = SimpleNamespace(
        data=SimpleNamespace(train=[1]),
        stages=stages_of(parse_job(build_job(world=4, rows=3))),
        templates=["t0", "t1", "t2", "t3"],
    )
    job = build_job(world=4, rows=3, queries=12)
    job["spec"]["training"]["teacher"] = {"model": "PreviousStage"}
    session.job = parse_job(job)
    alive: list[weakref.ref[Lessons]] = []

    def teach_anew(_model: TeachingModel) -> Lessons:
        assert not any(ref() for ref in alive)
        lessons = Lessons(dropped={"x": 1})
        alive.append(weakref.ref(lessons))
        return lessons

    teachers = StageTeachers(session, teach_anew)
    teachers.lessons([record(0, 0.5)])
    teachers.lessons([record(0, 0.5)])
    teachers.lessons([record(0, 0.5), record(1, 0.5)])
    assert len(alive) == 2


def record(index: int, score: float, full: float = 0.5) -> tuple[StageRecord, str]:
    fields: dict[str, Any] = {"index": index, "score": score, "full_prompt_score": full}
    return StageRecord.model_construct(**fields), f"digest {index}"


@pytest.mark.parametrize(
    ("model", "scores", "teacher"),
    [
        ("PreviousStage", [], None),
        ("PreviousStage", [0.1], "stage 1"),
        ("PreviousStage", [0.9, 0.1], "stage 2"),
        ("BestStage", [], None),
        ("BestStage", [0.9, 0.6], "stage 1"),
        ("BestStage", [0.6, 0.6], "stage 2"),
        ("BestStage", [0.5], "stage 1"),
        ("BestStage", [0.4, 0.3], "base model"),
        ("Base", [], "base model"),
        ("Base", [0.9, 0.9], "base model"),
    ],
)
def test_the_model_that_teaches_a_stage(model: str, scores: list[float], teacher: str | None) -> None:
    job = build_job(world=4, rows=3, queries=12)
    job["spec"]["training"]["teacher"] = {"model": model}
    parsed = parse_job(job)
    session: Any = SimpleNamespace(
        job=parsed,
        data=SimpleNamespace(train=[1]),
        stages=stages_of(parsed),
        templates=["t0", "t1", "t2", "t3"],
        full_template="full",
        examples=SimpleNamespace(shots=3),
    )
    earlier = [record(i, score) for i, score in enumerate(scores)]
    chosen = teacher_of_stage(session, earlier)
    assert (chosen.label if chosen else None) == teacher
    if chosen and chosen.stage is not None:
        index = int(chosen.stage)
        assert (chosen.digest, chosen.template) == (f"digest {index}", f"t{index}")
        assert chosen.shots == session.stages[index].shots
    session.data.train = []
    first = teacher_of_stage(session, [])
    assert first is not None, "without training rows, the first stage learns from the base model"
    assert first.label == "base model"


def test_where_an_answer_was_cut_at_a_stop_string_its_end_is_certain(tmp_path: Path) -> None:
    """The teacher itself would go on there, and a student that learned this would never end its answers."""
    stop = _bracket()
    session, _ = taught(session_of(stop=[stop]), tmp_path)
    end = session.tokenizer.eos_token_id
    for lesson in session.lessons.lessons:
        assert stop not in lesson.text
        targets = lesson.targets
        assert targets is not None
        assert lesson.answer_ids[-1] == end
        assert targets.ids[-1][0] == end
        assert targets.log_probs[-1][0] == 0
        assert len(set(targets.ids[-1].tolist())) == targets.ids.shape[1], "no token occurs twice"
        probabilities = np.exp(np.append(targets.log_probs[-1], targets.rest[-1]).astype(np.float64))
        assert probabilities.sum() == 1
        assert targets.ids[0][0] == lesson.answer_ids[0], "the other tokens keep the teacher's distributions"


def _bracket() -> str:
    """Return the bracket that opens the arguments of every formula of the world."""
    answer = load_data(parse_job(build_job(world=4, rows=1))).train[0].answer
    return next(sign for sign in answer if not sign.isalnum())


def test_an_answer_that_would_be_too_long_with_its_end_token_is_left_out(tmp_path: Path) -> None:
    lengths = [len(lesson.answer_ids) for lesson in taught(session_of(), tmp_path / "all")[0].lessons.lessons]
    limit = max(lengths) - 1
    session, recorder = taught(session_of(maxNewTokens=limit), tmp_path / "some")
    kept = [length for length in lengths if length <= limit]
    assert 0 < len(kept) < len(lengths)
    assert [len(lesson.answer_ids) for lesson in session.lessons.lessons] == kept
    assert session.lessons.dropped == {UNFINISHED: len(lengths) - len(kept)}
    (note,) = (event for event in recorder.events if isinstance(event, Note))
    assert note.warning
    assert UNFINISHED in note.text


def test_samples_of_a_teacher_that_is_sure_are_its_greedy_answers(tmp_path: Path) -> None:
    greedy, _ = taught(session_of(), tmp_path / "greedy")
    sampled, _ = taught(session_of(teacher={"samples": {"count": 3, "temperature": 0.5}}), tmp_path / "sampled")
    assert [lesson.text for lesson in sampled.lessons.lessons] == [lesson.text for lesson in greedy.lessons.lessons]
    assert sampled.lessons.cost.answer_tokens == 3 * greedy.lessons.cost.answer_tokens


def test_queries_whose_samples_disagree_are_left_out_in_the_same_way_every_time(tmp_path: Path) -> None:
    samples = {"count": 4, "temperature": 2.0, "minAgreement": 1.0}
    runs = [taught(session_of(rows=5, teacher={"samples": samples}), tmp_path / str(i))[0] for i in range(2)]
    assert runs[0].lessons.dropped[DISAGREEING] > 0
    assert runs[0].lessons.dropped == runs[1].lessons.dropped
    assert [lesson.text for lesson in runs[0].lessons.lessons] == [lesson.text for lesson in runs[1].lessons.lessons]


class PickyEncoder:
    """An encoder that refuses some answers, as chat templates and normalizers do."""

    def encode(self, prompts: list[str], answers: list[str]) -> list[Any]:
        if any("</think>" in answer or not answer.strip() for answer in answers):
            raise UserError.at("spec.prompt.chat", "the chat template does not write the answer")
        return [(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


@pytest.mark.parametrize("bad", [[], [0], [3, 4], [1, 6], list(range(7))])
def test_one_odd_answer_does_not_end_the_run(bad: list[int]) -> None:
    answers = [f"x</think>{i}" if i in bad else f"a{i}" for i in range(7)]
    encoded = encode_where_possible(PickyEncoder(), ["p"] * 7, answers)  # type: ignore[arg-type]
    assert encoded == [None if i in bad else ("p", f"a{i}") for i in range(7)]
    assert encode_where_possible(PickyEncoder(), ["p"], [" "]) == [None]  # type: ignore[arg-type]


def write_valid(folder: Path) -> None:
    shard = Shard(
        answers=[TeacherAnswer(row=0, text="a", tokens=[5, 2]), TeacherAnswer(row=2, text="b", tokens=[2])],
        dropped=[UnansweredQuery(row=1, reason=EMPTY)],
    )
    ids = np.array([[5, 1], [2, 3], [2, 0]], np.int32)
    log_probs = np.log(np.array([[0.7, 0.2, 0.1]] * 3, np.float32))
    write_shard(folder, shard, Distributions(ids=ids, log_probs=log_probs))


def read(folder: Path, loss: TeacherLoss = TeacherLoss.FORWARD_KL, **meta: Any) -> Any:
    teacher = Teacher(loss=loss)
    return read_lessons(
        folder, meta, teacher=teacher, rows=range(3), written=0, top_k=2, vocabulary=10, where="s3://b/run/teacher/0"
    )


def test_a_shard_comes_back(tmp_path: Path) -> None:
    write_valid(tmp_path)
    lessons = read(tmp_path)
    assert [(lesson.row, lesson.text, list(lesson.answer_ids)) for lesson in lessons.lessons] == [
        (0, "a", [5, 2]),
        (2, "b", [2]),
    ]
    assert [len(lesson.targets.ids) for lesson in lessons.lessons] == [2, 1]
    assert lessons.dropped == {EMPTY: 1}
    assert read(tmp_path, answerTokens=7, scoreSeconds=0.5).cost == TeachingCost(answer_tokens=7, score_seconds=0.5)
    with pytest.raises(RunFailed, match="answerTokens"):
        read(tmp_path, answerTokens=-1)
    assert [lesson.targets for lesson in read(tmp_path, TeacherLoss.ANSWERS).lessons] == [None, None]


def change(**fields: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "answers.json"
        document = json.loads(path.read_text())
        document["answers"][0] |= fields
        path.write_text(json.dumps(document))

    return apply


def tensors(ids: Any, log_probs: Any) -> Callable[[Path], None]:
    return lambda folder: save_file({"ids": ids, "log_probs": log_probs}, folder / "distributions.safetensors")


IDS, LOG_PROBS = np.zeros((3, 2), np.int32), np.full((3, 3), -1, np.float32)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "answers.json").write_text("[]"), "should be an object"),
        (lambda folder: (folder / "answers.json").write_text("{"), "Invalid JSON"),
        (lambda folder: (folder / "distributions.safetensors").unlink(), "No such file"),
        (lambda folder: (folder / "distributions.safetensors").write_bytes(b"x" * 40), ""),
        (change(row=7), "other rows than 0 to 2"),
        (change(tokens=[10**9]), "outside the vocabulary of 10 tokens"),
        (change(tokens=[]), "at least 1 item"),
        (change(tokens=[5, 2, 2]), "have the shapes"),
        (tensors(IDS[:, :1], LOG_PROBS), "have the shapes"),
        (tensors(IDS, LOG_PROBS.astype(np.float64)), "have the types"),
        (tensors(IDS - 7, LOG_PROBS), "impossible values"),
        (tensors(IDS + 10, LOG_PROBS), "impossible values"),
        (tensors(IDS, LOG_PROBS * np.nan), "impossible values"),
        (tensors(IDS, -LOG_PROBS), "impossible values"),
    ],
)
def test_a_damaged_shard_is_refused(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    write_valid(tmp_path)
    damage(tmp_path)
    with pytest.raises(RunFailed, match="s3://b/run/teacher/0 holds no valid answers of the teacher") as refused:
        read(tmp_path)
    assert words in str(refused.value)
    assert "remove this folder" in str(refused.value)


def test_only_files_that_the_manifest_does_not_list_are_removed(tmp_path: Path) -> None:
    store, first = store_in(tmp_path / "run")
    local = tmp_path / "local"
    local.mkdir()
    write_valid(local)
    for name in ("teacher/base/000000/t0/answers.json", "teacher/stage-0/000001/t0/answers.json"):
        store.store.write(name, b"late")
    manifest = commit_shard(store, "teacher/base/000000", local=local, term=first, parent=None, meta={})
    left = {"teacher/base/000000/manifest.json", "teacher/stage-0/000001/t0/answers.json"} | {
        f"teacher/base/000000/t{first}/{name}" for name in manifest.files
    }
    assert set(store.store.list("teacher")) == left
    store.store.write("teacher/base/000000/t9/answers.json", b"late")
    second = store.claim_term({})
    remove_leftovers(store, TEACHER_FOLDER, term=second)
    assert set(store.store.list("teacher")) == left, "a shard that is not committed keeps its files"
    assert shard_manifest(store, "teacher/base/000000") == manifest
    store.store.write("teacher/base/000000/t9/answers.json", b"of a newer driver")
    with pytest.raises(RunFailed, match="another process took over"):
        remove_leftovers(store, TEACHER_FOLDER, term=first)
    assert "teacher/base/000000/t9/answers.json" in store.store.list("teacher")


@pytest.mark.parametrize(("thinks", "with_queries"), [(True, True), (True, False), (False, True)])
def test_a_template_of_a_model_that_thinks_gives_a_warning(*, thinks: bool, with_queries: bool, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        + ("{# <think> #}" if thinks else "")
        + "{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    job = tiny_job(tmp_path, model={"uri": f"file://{write_tiny_model(tmp_path / 'chat', chat_template=template)}"})
    job["spec"]["prompt"]["chat"] = True
    if with_queries:
        (tmp_path / "queries.jsonl").write_text('{"query": "nine and nine"}\n')
        job["spec"]["data"]["queries"] = {"uri": f"file://{tmp_path}/queries.jsonl"}
    findings = check_job(parse_job(job))
    assert findings.problems == []
    assert any("can think before it answers" in w for w in findings.warnings) == (thinks and with_queries)
