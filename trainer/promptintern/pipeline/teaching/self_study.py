"""Self-study: the base model writes the queries from which it then learns, where there is no log of queries.

A full prompt ends where the query begins, and the base model continues it there, as it would continue any text. (Xu et
al., "Magpie", 2024, arXiv 2406.08464, let aligned models write the user's turn in this way.) The queries are drawn in
shards, which storage holds, so that a run that was killed continues with the same queries.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from promptintern_api.data import Generate, OnProblem
from pydantic import ValidationError

from promptintern.answering.answers import Answer, Decoding, Ending
from promptintern.engine import distributed
from promptintern.errors import RunFailed, UserError
from promptintern.pipeline.context_fit import fit_rows
from promptintern.pipeline.evaluation.held_out import answer_prompts
from promptintern.pipeline.events import Note, Observer, ShardStored
from promptintern.pipeline.session import Session, load_embedder
from promptintern.pipeline.teaching.written import SelfStudy, WrittenQueries, count_reasons, written_rows
from promptintern.prompt.render import render_prompt
from promptintern.rows.duplicates import normalise_query
from promptintern.storage.run import RunStore
from promptintern.storage.shards import (
    QUERIES_FOLDER,
    commit_shard,
    fetch_shard,
    remove_leftovers,
    shard_manifest,
)
from promptintern.uris import display_uri

DRAWS = 256
"""The number of queries that are drawn for a shard."""
MAX_DRAWS_PER_QUERY = 4
"""The number of draws for each query of ``data.generate.count`` after which no more queries are drawn."""
UNFINISHED = "the query does not end within data.generate.maxNewTokens"
EMPTY = "the query is empty"
UNREADABLE = "the query has control characters"
COPIED = "the query stands in the prompt"
REPEATED = "the query repeats another one"
LEAKED = "the query is also a held-out one"
NO_ROOM = "the prompt with its examples leaves no room for a query"
_MIN_COPIED_WORDS = 3
"""The number of words from which on a part of the prompt counts as copied. Fewer words must be a whole line of it."""
_FIELD = "spec.data.generate"
_FILE = "queries.json"
_SEED = 2_000_003
"""The number in the seeds of the draws that tells them from other draws of the run."""
_MAX_STOP = 16
"""The largest number of characters of the text after the query by which its end is recognized."""
_MARK = "\x1aquery\x1a"
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")
_LABEL = re.compile(r"^[^:]{1,40}:\s*")


def add_written_queries(session: Session, store: RunStore, *, term: int, observer: Observer) -> Session:
    """Let the base model write queries if the job asks for it, and return the session with these queries.

    Raises:
        UserError: if too small a share of the drawn queries is valid.
        RunFailed: if the storage holds something else than queries of this run.
        Stopped: if a stop was requested; the shards that were committed remain.
    """
    settings = session.job.spec.data.generate
    if settings is None:
        return session
    distributed.from_rank_zero(lambda: remove_leftovers(store, QUERIES_FOLDER, term=term))
    study = SelfStudy()
    number = 0
    while len(study.queries) < settings.count and study.drawn < MAX_DRAWS_PER_QUERY * settings.count:
        study.add(_shard(session, store, number, study, term=term, observer=observer))
        if distributed.rank() == 0:
            observer.emit(ShardStored(teacher=QUERIES_FOLDER, number=number))
        if fault := share_fault(study, settings):
            raise UserError.at(_FIELD, fault)
        number += 1
    if distributed.rank() == 0:
        observer.emit(Note(text=describe(study), warning=len(study.queries) < settings.count))
    return with_queries(session, study)


def describe(study: SelfStudy) -> str:
    """Return a sentence that says how many of the drawn queries are valid and distinct."""
    reasons = f"; {count_reasons(study.dropped)}" if study.dropped else ""
    return (
        f"the base model wrote {study.drawn:,} queries, of which {len(study.queries):,} "
        f"({100 * study.valid_share:.0f} %) are valid and distinct{reasons}"
    )


def share_fault(study: SelfStudy, settings: Generate) -> str | None:
    """Return why too few of the drawn queries are valid, or None if enough are."""
    if study.queries and study.valid_share >= settings.min_valid:
        return None
    least = f"at least {100 * settings.min_valid:g} % (minValid)" if settings.min_valid else "at least one valid query"
    return (
        f"{describe(study)}, but the job asks for {least}. Show the model what a query looks like (examples in the "
        "template, or data.train with shots), change temperature or maxNewTokens, or name a log of queries in "
        "data.queries"
    )


def with_queries(session: Session, study: SelfStudy) -> Session:
    """Return the session with the written queries after those of the job's file, at most as many as the job asks for.

    Written queries whose prompts are too long are left out, whatever ``data.onTooLong`` says, because the user cannot
    change them.

    Raises:
        UserError: if no row is left to learn from.
    """
    job = session.job
    assert job.spec.data.generate is not None
    data = job.spec.data.model_copy(update={"on_too_long": OnProblem.DROP})
    fitting = fit_rows(
        job.model_copy(update={"spec": job.spec.model_copy(update={"data": data})}),
        replace(
            session.data, queries=[*session.data.queries, *written_rows(study.queries[: job.spec.data.generate.count])]
        ),
        full=session.full_template,
        by_stage=session.templates,
        encoder=session.encoder,
        embedder=load_embedder(job, session.device),
        model_config=session.adapter.model.get_base_model().config,
        needs_training_rows=True,
    )
    return replace(session, data=fitting.data, examples=fitting.examples, warnings=fitting.warnings, self_study=study)


def draw_queries(session: Session, number: int, draws: int, study: SelfStudy, *, observer: Observer) -> WrittenQueries:
    """Draw ``draws`` queries of the shard with this number, and return those that are valid and distinct.

    Args:
        study: The queries of earlier shards.
    """
    settings = session.job.spec.data.generate
    assert settings is not None
    seed = session.job.spec.training.seed
    decoding = Decoding(
        max_new_tokens=settings.max_new_tokens,
        stop=stop_texts(session, multiline=settings.multiline),
        ends=session.encoder.ends,
        batch_size=session.job.spec.evaluation.batch_size,
        temperature=settings.temperature,
        seed=(seed, _SEED, number),
    )
    openings = list(_openings(session, random.Random(f"{seed} {_SEED} {number}"), draws))
    ids = [list(tokens) for tokens in session.encoder.encode_openings(openings, _MARK)]
    room = session.max_tokens - settings.max_new_tokens
    fitting = [i for i in range(draws) if len(ids[i]) <= room]
    answers = answer_prompts(
        session,
        [ids[i] for i in fitting],
        use_adapter=False,
        name="queries",
        observer=observer,
        decoding=decoding,
        done_before=study.drawn,
        total=max(settings.count, study.drawn + draws),
    )
    shard = _valid(session, [openings[i] for i in fitting], answers, study)
    if len(fitting) < draws:
        shard.dropped[NO_ROOM] = draws - len(fitting)
    return shard


def stop_texts(session: Session, *, multiline: bool) -> tuple[str, ...]:
    """Return the texts at which a query ends: what follows the query in the template, and a line break."""
    text = "".join(piece.text for piece in session.full_template.pieces)
    following = text.partition("{query}")[2].partition("{examples}")[0][:_MAX_STOP]
    if not multiline:
        following = following.partition("\n")[0]
    stops = [following.rstrip()] if following.strip() else []
    return tuple(stops if multiline else [*stops, "\n"])


def _openings(session: Session, draw: random.Random, count: int) -> Iterator[str]:
    """Yield full prompts that hold a mark in place of the query, each with examples drawn from the training rows."""
    prompt, shots, train = session.job.spec.prompt, session.examples.shots, session.data.train
    for _ in range(count):
        yield render_prompt(
            session.full_template,
            query=_MARK,
            examples=draw.sample(train, shots) if shots else [],
            example_template=prompt.example_template,
        )


def _valid(session: Session, openings: Sequence[str], answers: Sequence[Answer], study: SelfStudy) -> WrittenQueries:
    held_out = {normalise_query(row.query) for row in session.data.eval}
    used = {normalise_query(row.query) for row in session.pool} | study.keys
    queries: list[str] = []
    dropped: dict[str, int] = {}
    for opening, answer in zip(openings, answers, strict=True):
        query = answer.text.strip()
        key = normalise_query(query)
        if fault := _fault(answer, key, opening, held_out=held_out, used=used):
            dropped[fault] = dropped.get(fault, 0) + 1
        else:
            used.add(key)
            queries.append(query)
    return WrittenQueries(queries=queries, dropped=dropped)


def _fault(answer: Answer, key: str, opening: str, *, held_out: set[str], used: set[str]) -> str | None:
    """Return why a written query, which is ``key`` after normalisation, cannot be used, or None if it can."""
    if not key:
        return EMPTY
    if answer.ending is Ending.LENGTH:
        return UNFINISHED
    if _UNREADABLE.search(answer.text):
        return UNREADABLE
    if key in held_out:
        return LEAKED
    if key in used:
        return REPEATED
    return COPIED if _is_copied(key, opening) else None


def _is_copied(key: str, opening: str) -> bool:
    """Return whether the normalised query ``key`` stands in the prompt ``opening``."""
    lines = [normalise_query(line) for line in opening.replace(_MARK, "").splitlines()]
    if any(line == key or _LABEL.sub("", line) == key for line in lines):
        return True
    is_long = len(key.split()) >= _MIN_COPIED_WORDS
    return is_long and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", " ".join(lines)) is not None


def _shard(
    session: Session, store: RunStore, number: int, study: SelfStudy, *, term: int, observer: Observer
) -> WrittenQueries:
    """Return the queries of the shard with this number. Draw and commit them first if they are missing."""
    folder = f"{QUERIES_FOLDER}/{number:06d}"

    def read() -> WrittenQueries | None:
        manifest = shard_manifest(store, folder)
        if manifest is None:
            return None
        with TemporaryDirectory(prefix="promptintern-") as local:
            fetch_shard(store, folder, manifest, Path(local))
            try:
                shard = WrittenQueries.model_validate_json((Path(local) / _FILE).read_bytes())
            except (ValidationError, OSError) as error:
                raise RunFailed(
                    f"{display_uri(store.store.uri)}/{folder} holds no valid queries "
                    f"({str(error).splitlines()[0]}); remove this folder, and the run creates it again"
                ) from None
        return shard

    shard = distributed.from_rank_zero(read)
    if shard is not None:
        return shard
    drawn = draw_queries(session, number, DRAWS, study, observer=observer)

    def commit() -> WrittenQueries | None:
        with TemporaryDirectory(prefix="promptintern-") as local:
            text = json.dumps(drawn.model_dump(mode="json", by_alias=True), ensure_ascii=False, indent=0)
            (Path(local) / _FILE).write_text(text + "\n", encoding="utf-8")
            commit_shard(store, folder, local=Path(local), term=term, parent=None, meta={})
        return read()

    committed: Any = distributed.from_rank_zero(commit)
    assert isinstance(committed, WrittenQueries)
    return committed
