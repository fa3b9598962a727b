"""Queries that the base model writes: which of them count, and what storage holds of them."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from promptintern.answering.answers import Answer, Ending
from promptintern.commands.validate import check_job
from promptintern.errors import RunFailed, UserError
from promptintern.models.fetch import fetch_model
from promptintern.models.load import load_tokenizer
from promptintern.pipeline.events import Note
from promptintern.pipeline.inputs import load_data
from promptintern.pipeline.session import Session, open_session
from promptintern.pipeline.teaching import self_study
from promptintern.pipeline.teaching.self_study import (
    COPIED,
    EMPTY,
    LEAKED,
    NO_ROOM,
    REPEATED,
    UNFINISHED,
    UNREADABLE,
    add_written_queries,
    describe,
    stop_texts,
    with_queries,
)
from promptintern.pipeline.teaching.written import SelfStudy, WrittenQueries
from promptintern.prompt.encode import PromptEncoder
from promptintern.prompt.template import parse_template
from promptintern.sample import MODEL_URI
from promptintern.sample.job import build_job
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store
from promptintern_api import parse_job

from tests.unit.pipeline.recorder import Recorder


def session_of(rows: int = 0, queries: int = 2, **generate: Any) -> Session:
    job = build_job(world=4, rows=rows, queries=queries, name="written")
    job["spec"]["data"]["generate"] = {"temperature": 3, "minValid": 0.0, "maxNewTokens": 12, **generate}
    job["spec"]["data"]["eval"]["uri"] = "sample://formulas/eval?world=4&rows=4"
    parsed = parse_job(job)
    return open_session(parsed, load_data(parsed))


def written(session: Session, folder: Path) -> tuple[Session, Recorder]:
    store = RunStore(open_store(folder.as_uri()))
    recorder = Recorder()
    return add_written_queries(session, store, term=store.claim_term({}), observer=recorder), recorder  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_study, "DRAWS", 8)


def test_written_queries_come_after_those_of_the_file_and_are_the_same_every_time(tmp_path: Path) -> None:
    first, recorder = written(session_of(count=6), tmp_path / "run")
    queries = [query.query for query in first.data.queries]
    assert len(queries) == len(set(queries)) == 2 + 6
    assert [query.is_written for query in first.data.queries] == [False] * 2 + [True] * 6
    assert len(first.examples.queries) == 8
    study = first.self_study
    assert study is not None
    assert study.drawn % 8 == 0
    assert study.drawn == len(study.queries) + sum(study.dropped.values())
    assert Note(text=describe(study)) in recorder.events
    stored = sorted((tmp_path / "run/queries").glob("*/t*/queries.json"))
    assert len(stored) == study.drawn // 8
    assert [query for path in stored for query in json.loads(path.read_text())["queries"]] == list(study.queries)
    again, _ = written(session_of(count=6), tmp_path / "again")
    assert [query.query for query in again.data.queries] == queries


def test_a_run_that_was_killed_continues_with_the_shards_that_it_has(tmp_path: Path) -> None:
    complete, _ = written(session_of(count=6), tmp_path)
    last = sorted(tmp_path.glob("queries/*/manifest.json"))[-1]
    last.unlink()
    left = tmp_path / f"queries/{last.parent.name}/t0"
    left.mkdir()
    (left / "queries.json").write_text("{}")
    first = sorted(tmp_path.glob("queries/*/t*/queries.json"))[0]
    before = first.stat().st_mtime_ns
    continued, _ = written(session_of(count=6), tmp_path)
    assert continued.data.queries == complete.data.queries
    assert first.stat().st_mtime_ns == before
    assert not (left / "queries.json").exists(), "the files of the killed driver are removed"


def test_too_few_valid_queries_refuse_the_job(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"spec.data.generate: the base model wrote \d+ queries.*at least 90 %"
    ) as refused:
        written(session_of(count=20, temperature=0.01, minValid=0.9), tmp_path)
    assert "8 times, the query" in str(refused.value), "the share is checked after every shard"


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    written(session_of(count=2), tmp_path)
    (path,) = tmp_path.glob("queries/000000/t*/queries.json")
    path.write_text("[1, 2")
    with pytest.raises(RunFailed, match="queries/000000"):
        written(session_of(count=2), tmp_path)


def query(text: str, ending: Ending = Ending.STOP) -> Answer:
    return Answer(text=text, tokens=3, ending=ending)


def study_of(*queries: str) -> SelfStudy:
    study = SelfStudy()
    study.add(WrittenQueries(queries=list(queries), dropped={}))
    return study


def test_which_queries_are_left_out() -> None:
    session: Any = SimpleNamespace(
        data=SimpleNamespace(eval=[SimpleNamespace(query="Held out?")]), pool=[SimpleNamespace(query="in the log")]
    )
    answers = [
        query(" list all files "),
        query("List  all files!"),
        query("in the LOG"),
        query("written before"),
        query("held out"),
        query("count the lines of"),
        query("  "),
        query("cut off", Ending.LENGTH),
        query("show the date", Ending.END_TOKEN),
        query("a\x1b]0;title\x07b"),
    ]
    openings = ["Task: count the lines of a file\nTask: \x1aquery\x1a"] * len(answers)
    shard = self_study._valid(session, openings, answers, study_of("Written before."))
    assert shard.queries == ["list all files", "show the date"]
    assert shard.dropped == {REPEATED: 3, LEAKED: 1, COPIED: 1, EMPTY: 1, UNFINISHED: 1, UNREADABLE: 1}
    study = SelfStudy()
    study.add(shard)
    study.add(WrittenQueries(queries=["x"], dropped={EMPTY: 1}))
    assert (study.drawn, len(study.queries), study.dropped[EMPTY]) == (12, 3, 2)
    assert describe(study).startswith(
        "the base model wrote 12 queries, of which 3 (25 %) are valid and distinct; 3 times"
    )


@pytest.mark.parametrize(
    ("text", "is_copied"),
    [
        ("cat", False),
        ("7", False),
        ("query", False),
        ("17 classes", False),
        ("black", True),
        ("dog", True),
        ("categorise the animal", True),
        ("the animal", False),
    ],
)
def test_short_queries_are_copied_only_if_they_are_a_whole_line_of_the_prompt(text: str, is_copied: bool) -> None:
    opening = "Categorise the animal, 17 classes.\nAnimal: dog\nBlack\nAnimal: \x1aquery\x1a\nClass:"
    assert self_study._is_copied(text, opening) == is_copied


@pytest.mark.parametrize(
    ("template", "multiline", "stops"),
    [
        ("Task: {query}\nBash:", False, ("\n",)),
        ("Task: {query}\nBash:", True, ("\nBash:",)),
        ('Task: "{query}"\nBash:', False, ('"', "\n")),
        ("<q>{query}</q>\nA:", False, ("</q>", "\n")),
        ("Task: {query} =>", False, (" =>", "\n")),
        ("Task: {query} =>", True, (" =>",)),
        ("Task: {query}", False, ("\n",)),
        ("Task: {query}", True, ()),
        ("{query}\n\nExamples:\n{examples}", False, ("\n",)),
        ("{query} -- {examples}", False, (" --", "\n")),
    ],
)
def test_where_a_query_ends(template: str, multiline: bool, stops: tuple[str, ...]) -> None:
    session: Any = SimpleNamespace(full_template=parse_template(template))
    assert stop_texts(session, multiline=multiline) == stops


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    ("chat", "prompt", "opening"),
    [
        (False, "Task: MARK\nBash:", "Task:"),
        (False, "Task:\nMARK\nBash:", "Task:\n"),
        (True, "Task: MARK\nBash:", "<user>Task:"),
    ],
)
def test_an_opening_ends_where_the_query_begins(chat: bool, prompt: str, opening: str) -> None:
    tokenizer = load_tokenizer(fetch_model(MODEL_URI))
    tokenizer.chat_template = CHAT
    encoder = PromptEncoder(tokenizer, chat=chat)
    (ids,) = encoder.encode_openings([prompt], "MARK")
    expected = tokenizer(opening, add_special_tokens=False)["input_ids"]
    assert list(ids)[-len(expected) :] == expected
    assert encoder.encode_openings(["MARK\n"], "MARK")[0], "there is a token from which generation can begin"


def test_a_chat_template_that_changes_the_text_is_refused() -> None:
    tokenizer = load_tokenizer(fetch_model(MODEL_URI))
    tokenizer.chat_template = CHAT.replace("{{ m.content }}", "{{ m.content | upper }}")
    encoder = PromptEncoder(tokenizer, chat=False)
    encoder._chat = True
    with pytest.raises(UserError, match="does not write the user's text as it is"):
        encoder.encode_openings(["Task: mark"], "mark")


def test_openings_that_leave_no_room_are_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(count=4)
    monkeypatch.setattr(self_study, "answer_prompts", lambda _session, prompts, **_: [query("x")] * len(prompts))
    shard = self_study.draw_queries(replace(session, max_tokens=100), 0, 8, SelfStudy(), observer=Recorder())  # type: ignore[arg-type]
    assert shard == WrittenQueries(queries=[], dropped={NO_ROOM: 8})


def test_written_queries_that_are_too_long_are_left_out_and_do_not_refuse_the_job() -> None:
    session = session_of(count=4)
    limit = session.job.spec.training.model_copy(update={"max_tokens": 300})
    spec = session.job.spec.model_copy(update={"training": limit})
    short = replace(session, job=session.job.model_copy(update={"spec": spec}), max_tokens=300)
    added = with_queries(short, study_of("list files", "word " * 200))
    assert [q.query for q in added.data.queries if q.is_written] == ["list files"]
    assert added.data.dropped == {"queries: too long for the teacher": 1}


def test_the_check_of_a_job_without_any_row_to_learn_from_yet(tmp_path: Path) -> None:
    """A held-out row that is too long is dropped, although nothing else is there before the base model has written."""
    (tmp_path / "eval.jsonl").write_text(
        json.dumps({"query": "sum", "answer": "x"}) + "\n" + json.dumps({"query": "word " * 3000, "answer": "x"}) + "\n"
    )
    job = build_job(world=4, queries=1, name="written")
    job["spec"]["data"] = {
        "generate": {},
        "eval": {"uri": f"file://{tmp_path}/eval.jsonl"},
        "onTooLong": "Drop",
    }
    findings = check_job(parse_job(job))
    assert findings.problems == []
    assert any("1000 queries that the base model will write" in line for line in findings.summary)
    job["spec"]["data"]["generate"] = {"maxNewTokens": 2000}
    assert [problem.where for problem in check_job(parse_job(job)).problems] == ["spec.data.generate.maxNewTokens"]
