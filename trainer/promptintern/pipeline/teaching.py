"""The teaching pass: the base model, with the full prompt, answers the queries that have no answer.

The queries are divided into shards. Each shard is answered, scored and committed before the next one begins, so a run
that was killed continues with the first shard that is missing. Stages and epochs read the answers and the
distributions from the shards, and never compute the teacher again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from promptintern_api import PromptInternJob
from promptintern_api.training import DEFAULT_TOP_K, Teacher, TeacherLoss

from promptintern.engine import distributed
from promptintern.engine.fused.patching import train_mode
from promptintern.engine.packing.forward import compute_shared_prefix, pack_tensors, pack_top_k
from promptintern.engine.packing.layout import PackLayout, patched_for
from promptintern.errors import RunFailed, UserError
from promptintern.evaluate.agreement import are_unfinished, most_frequent
from promptintern.evaluate.generate import Answer, Ending
from promptintern.pipeline.events import Note, Observer, ShardStored
from promptintern.pipeline.held_out import answer_prompts, decoding_of
from promptintern.pipeline.lessons import (
    Distributions,
    Lessons,
    Shard,
    TeacherAnswer,
    TeachingCost,
    UnansweredQuery,
    join_lessons,
    read_lessons,
    write_shard,
)
from promptintern.pipeline.session import Session
from promptintern.pipeline.tracks import layout_of, plan_rows
from promptintern.prompt.encode import Encoded, PromptEncoder
from promptintern.storage.run import RunStore
from promptintern.storage.shards import commit_shard, fetch_shard, remove_leftovers, shard_folder, shard_manifest
from promptintern.uris import display_uri

SHARD_QUERIES = 256
"""The number of queries in a shard."""
UNFINISHED = "the teacher's answer does not fit into evaluation.maxNewTokens"
EMPTY = "the teacher's answer is empty"
DISAGREEING = "too few of the teacher's answers to the query agree"
NOT_ENCODABLE = "the tokenizer or the chat template cannot write the teacher's answer"
_ADVICE = {
    UNFINISHED: "raise evaluation.maxNewTokens, or set evaluation.stop if the base model continues after its answer",
    EMPTY: "change the prompt so that the base model answers, or use a stronger base model",
    DISAGREEING: "lower training.teacher.samples.minAgreement or temperature",
    NOT_ENCODABLE: "set prompt.chat to false, or use a base model whose template does not change answers",
}


def teacher_of(job: PromptInternJob) -> Teacher | None:
    """Return the settings of the job's teacher, or None if the job has no queries without answers."""
    if job.spec.data.queries is None:
        return None
    return job.spec.training.teacher or Teacher()


def top_k_of(teacher: Teacher, model_config: Any) -> int:
    """Return the number of tokens of each stored distribution.

    Args:
        model_config: The transformers config of the base model.

    Raises:
        UserError: if the job asks for more tokens than the vocabulary of the base model has.
    """
    vocabulary = vocabulary_of(model_config)
    if teacher.top_k is not None and teacher.top_k > vocabulary:
        raise UserError.at(
            "spec.training.teacher.topK",
            f"is {teacher.top_k}, but the vocabulary of the base model has {vocabulary} tokens",
        )
    return min(teacher.top_k or DEFAULT_TOP_K, vocabulary)


def vocabulary_of(model_config: Any) -> int:
    """Return the number of token ids of a model with this transformers config."""
    size: int = model_config.get_text_config().vocab_size
    return size


def teach(session: Session, store: RunStore, *, term: int, observer: Observer) -> Session:
    """Let the teacher answer all queries that are not answered yet, and return the session with all lessons.

    The adapter must be new, so that the model computes what the base model computes.

    Raises:
        UserError: if no query has an answer that can be learned, and there are no training rows; or if the job asks for
            the probabilities of more tokens than there are.
        RunFailed: if the device has too little memory, or the storage holds something else than this run's shards.
        Stopped: if a stop was requested; the shards that were committed remain.
    """
    teacher = teacher_of(session.job)
    if teacher is None:
        return session
    config = session.adapter.model.get_base_model().config
    teaching = _TeachingPass(
        session=session,
        store=store,
        term=term,
        observer=observer,
        teacher=teacher,
        top_k=top_k_of(teacher, config),
        vocabulary=vocabulary_of(config),
    )
    distributed.from_rank_zero(lambda: remove_leftovers(store, term=term))
    lessons = join_lessons(teaching.shard(number) for number in range(-(-teaching.count // SHARD_QUERIES)))
    if not lessons.lessons and not session.data.train:
        advice = "; ".join(_ADVICE[reason] for reason in lessons.dropped)
        raise UserError.at(
            "spec.data.queries", f"no query has an answer that can be learned ({_reasons(lessons)}); {advice}"
        )
    if distributed.rank() == 0:
        text = f"the teacher answered {len(lessons.lessons):,} of {teaching.count:,} queries"
        left_out = f"; {_reasons(lessons)}" if lessons.dropped else ""
        observer.emit(Note(text=text + left_out, warning=bool(lessons.dropped)))
    return replace(session, lessons=lessons)


def _reasons(lessons: Lessons) -> str:
    return "; ".join(f"{count:,} times, {reason}" for reason, count in lessons.dropped.items())


@dataclass(frozen=True, kw_only=True)
class _TeachingPass:
    session: Session
    store: RunStore
    term: int
    observer: Observer
    teacher: Teacher
    top_k: int
    vocabulary: int

    @property
    def count(self) -> int:
        """The number of queries."""
        return len(self.session.data.queries)

    def shard(self, number: int) -> Lessons:
        """Return the lessons of the shard with this number. Answer, score and commit it first if it is missing."""
        queries = range(number * SHARD_QUERIES, min((number + 1) * SHARD_QUERIES, self.count))
        lessons = distributed.from_rank_zero(lambda: self._read(number, queries))
        if lessons is None:
            began = time.perf_counter()
            answers = self._answer(queries)
            answered = time.perf_counter()
            distributions = None
            if self.teacher.loss is not TeacherLoss.ANSWERS and answers.rows:
                distributions = _end_where_cut(self._score(answers.rows), answers)
            cost = TeachingCost(
                answer_tokens=answers.tokens,
                answer_seconds=round(answered - began, 3),
                score_seconds=round(time.perf_counter() - answered, 3),
            )

            def commit() -> Lessons | None:
                with TemporaryDirectory(prefix="promptintern-") as folder:
                    write_shard(Path(folder), answers.shard, distributions)
                    commit_shard(
                        self.store, number, local=Path(folder), term=self.term, meta=cost.model_dump(by_alias=True)
                    )
                return self._read(number, queries)

            lessons = distributed.from_rank_zero(commit)
        assert lessons is not None
        if distributed.rank() == 0:
            self.observer.emit(ShardStored(number=number))
        return lessons

    def _read(self, number: int, queries: range) -> Lessons | None:
        manifest = shard_manifest(self.store, number)
        if manifest is None:
            return None
        with TemporaryDirectory(prefix="promptintern-") as folder:
            fetch_shard(self.store, number, manifest, Path(folder))
            return read_lessons(
                Path(folder),
                manifest.meta,
                teacher=self.teacher,
                queries=queries,
                top_k=self.top_k,
                vocabulary=self.vocabulary,
                where=f"{display_uri(self.store.store.uri)}/{shard_folder(number)}",
            )

    def _answer(self, queries: range) -> "_Answers":
        """Let the teacher answer the queries with these indices."""
        session, encoder = self.session, self.session.encoder
        prompts = list(
            session.prompts(
                session.full_template,
                session.examples.shots,
                rows=[session.data.queries[i] for i in queries],
                neighbours=[session.examples.queries[i] for i in queries],
            )
        )
        ids = [list(prompt) for prompt in encoder.encode_prompts(prompts)]
        samples = self.teacher.samples
        drawn = [self._draw(queries, ids, number) for number in range(samples.count if samples else 1)]
        by_query = list(zip(*drawn, strict=True))
        chosen = [most_frequent(answers) for answers in by_query]
        answers = [answer for answer, _ in chosen]
        rows = encode_where_possible(encoder, prompts, [answer.text for answer in answers])
        limit = session.job.spec.evaluation.max_new_tokens
        faults = [
            _disagreement(answers_to_one) if samples and share < samples.min_agreement else _fault(answer, row, limit)
            for answers_to_one, (answer, share), row in zip(by_query, chosen, rows, strict=True)
        ]
        kept = [
            (i, answer, row)
            for i, answer, row, fault in zip(queries, answers, rows, faults, strict=True)
            if row and not fault
        ]
        return _Answers(
            shard=Shard(
                answers=[
                    TeacherAnswer(query=i, text=answer.text, tokens=list(row.answer_ids)) for i, answer, row in kept
                ],
                dropped=[
                    UnansweredQuery(query=i, reason=fault) for i, fault in zip(queries, faults, strict=True) if fault
                ],
            ),
            rows=[row for _, _, row in kept],
            cut=[answer.ending is Ending.STOP for _, answer, _ in kept],
            tokens=sum(answer.tokens for answers in drawn for answer in answers),
        )

    def _draw(self, queries: range, prompts: Sequence[Sequence[int]], number: int) -> list[Answer]:
        """Return an answer to each prompt (token ids): the greedy one, or the sample with this number."""
        samples = self.teacher.samples
        count = samples.count if samples else 1
        decoding = decoding_of(self.session)
        if samples:
            seed = self.session.job.spec.training.seed
            decoding = replace(
                decoding, temperature=samples.temperature, seed=(seed, queries.start, number, distributed.rank())
            )
        return answer_prompts(
            self.session,
            prompts,
            use_adapter=False,
            name="teacher",
            observer=self.observer,
            decoding=decoding,
            done_before=queries.start * count + number * len(queries),
            total=self.count * count,
        )

    def _score(self, rows: Sequence[Encoded]) -> Distributions:
        """Return the teacher's distributions at the answer tokens of all rows. Each worker computes some rows.

        Raises:
            RunFailed: if the device has too little memory.
        """
        own = [rows[i] for i in distributed.own_share(len(rows))]
        try:
            scored = score_rows(self.session, own, self.top_k)
        except torch.OutOfMemoryError:
            raise RunFailed(
                f"{self.session.device} has too little memory to compute the teacher's probabilities; lower "
                "training.tokensPerPack"
            ) from None
        by_row = distributed.gather_shares(scored, len(rows))
        return Distributions(
            ids=np.concatenate([row.ids for row in by_row]), log_probs=np.concatenate([row.log_probs for row in by_row])
        )


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """The teacher's answers to the queries of a shard."""

    shard: Shard
    rows: Sequence[Encoded]
    """The full prompt and the answer of each answered query."""
    cut: Sequence[bool]
    """Whether each answer was cut at a stop string, so that the teacher itself would have gone on."""
    tokens: int
    """The number of generated tokens, including those of answers that are left out."""


def _end_where_cut(distributions: Distributions, answers: _Answers) -> Distributions:
    """Make the end token certain where an answer was cut at a stop string.

    The teacher itself would go on there. A student that learned this would go on as well, and its answers would end
    only where the same stop strings are used.
    """
    ids, log_probs = distributions.ids.copy(), distributions.log_probs.copy()
    last = np.cumsum([len(row.answer_ids) for row in answers.rows]) - 1
    for index, row, cut in zip(last, answers.rows, answers.cut, strict=True):
        if cut:
            end = row.answer_ids[-1]
            others = ids[index][ids[index] != end]
            ids[index] = [end, *others[: ids.shape[1] - 1]]
            log_probs[index] = [0.0, *[-np.inf] * ids.shape[1]]
    return Distributions(ids=ids, log_probs=log_probs)


def encode_where_possible(
    encoder: PromptEncoder, prompts: Sequence[str], answers: Sequence[str]
) -> list[Encoded | None]:
    """Return the encoded row of each prompt and answer, or None where the answer cannot be encoded.

    A model writes the answers, so one odd answer must not end the run.
    """
    if not any(answer.strip() for answer in answers):
        return [None] * len(answers)
    try:
        return list(encoder.encode(prompts, answers))
    except UserError:
        if len(answers) == 1:
            return [None]
    middle = len(answers) // 2
    return [
        row
        for cut in (slice(middle), slice(middle, None))
        for row in encode_where_possible(encoder, prompts[cut], answers[cut])
    ]


def _disagreement(answers: Sequence[Answer]) -> str:
    """Return why too few of ``answers`` to one query are equal."""
    return UNFINISHED if are_unfinished(answers) else DISAGREEING


def _fault(answer: Answer, row: Encoded | None, limit: int) -> str | None:
    """Return why ``answer`` cannot be learned, or None if it can.

    Args:
        row: The encoded answer, or None if it cannot be encoded.
        limit: The maximum number of tokens of an answer. An answer that was cut at a stop string, or that a chat
            template wrote, may have more tokens than were generated.
    """
    if answer.ending is Ending.LENGTH:
        return UNFINISHED
    if not answer.text.strip():
        return EMPTY
    if row is None:
        return NOT_ENCODABLE
    return UNFINISHED if len(row.answer_ids) > limit else None


@torch.no_grad()
def score_rows(session: Session, rows: Sequence[Encoded], k: int) -> list[Distributions]:
    """Return the distributions of this worker's model at the answer tokens of each row."""
    if not rows:
        return []
    model, device, layout = session.adapter.model, session.device, layout_of(session, rows)
    # All rows are one step of one worker, so the template is computed once.
    (step,) = plan_rows(
        session,
        rows,
        layout=layout,
        seed=(0,),
        epochs=1,
        tokens_per_batch=2**62,
        rows_per_batch=None,
        world_size=1,
        threads=1,
    )
    scored: dict[int, Distributions] = {}
    with train_mode(model, training=False), patched_for(model, layout):
        prefix = rows[0].prompt_ids[: step.prefix_tokens]
        shared_prefix = compute_shared_prefix(model, prefix, device=device) if step.prefix_tokens else None
        for pack in step.workers[0]:
            tensors = pack_tensors(
                [rows[i] for i in pack.rows],
                device=device,
                tree_attention=layout.uses_tree_attention,
                share_prefixes=layout is PackLayout.PREFIX_TREE,
                shared_prefix=shared_prefix,
            )
            ids, log_probs = (x.cpu().numpy() for x in pack_top_k(model, tensors, k))
            ends = np.cumsum([len(rows[i].answer_ids) for i in pack.rows])[:-1]
            for i, row_ids, row_log_probs in zip(
                pack.rows, np.split(ids, ends), np.split(log_probs, ends), strict=True
            ):
                scored[i] = Distributions(ids=row_ids, log_probs=row_log_probs)
    return [scored[i] for i in range(len(rows))]
