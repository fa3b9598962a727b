"""The teaching pass: a model with a longer prompt answers the queries that have no answer, and scores answers.

The rows are divided into shards. Each shard is answered, scored and committed before the next one begins, so a run that
was killed continues with the first shard that is missing. Only if vLLM answers on a GPU, several shards are answered
before the first of them is scored, because vLLM has to end for the scores, and takes a minute to start again. Stages
and epochs read the answers and the distributions from the shards, and never compute the teacher again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from promptintern_api.training import Teacher, TeacherLoss

from promptintern.answering.answers import Answer, Ending
from promptintern.engine import distributed
from promptintern.errors import UserError
from promptintern.evaluate.agreement import are_unfinished, most_frequent
from promptintern.pipeline.evaluation.held_out import answer_prompts, decoding_of
from promptintern.pipeline.events import Note, Observer, ShardStored
from promptintern.pipeline.session import Session
from promptintern.pipeline.teaching.choice import TeachingModel
from promptintern.pipeline.teaching.lessons import (
    Lessons,
    Shard,
    TeacherAnswer,
    TeachingCost,
    UnansweredQuery,
    join_lessons,
    read_lessons,
    write_shard,
)
from promptintern.pipeline.teaching.scoring import end_where_cut, score_on_all_workers
from promptintern.pipeline.teaching.settings import teacher_of, top_k_of, vocabulary_of
from promptintern.pipeline.teaching.written import count_reasons
from promptintern.prompt.encode import Encoded, PromptEncoder
from promptintern.storage.run import RunStore
from promptintern.storage.shards import (
    TEACHER_FOLDER,
    commit_shard,
    fetch_shard,
    remove_leftovers,
    remove_shard,
    shard_folder,
    shard_manifest,
)
from promptintern.uris import display_uri

SHARD_ROWS = 256
"""The number of rows in a shard."""
SHARDS_PER_START = 16
"""The number of shards that vLLM answers before it ends, where PyTorch needs its memory for their scores."""
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


def teach(
    session: Session,
    store: RunStore,
    model: TeachingModel,
    *,
    load: Callable[[str | None], None],
    term: int,
    observer: Observer,
) -> Lessons:
    """Let ``model`` answer or score all rows that it has not answered or scored yet, and return all its lessons.

    Args:
        load: A function that loads the adapter of the stage with a key, or a new adapter for None. It is called
            before each missing shard.

    Raises:
        UserError: if no query has an answer that can be learned, and there are no training rows; or if the job asks for
            the probabilities of more tokens than there are.
        RunFailed: if the device has too little memory, or the storage holds something else than this run's shards.
        Stopped: if a stop was requested; the shards that were committed remain.
    """
    teacher = teacher_of(session.job)
    assert teacher is not None
    config = session.adapter.model.get_base_model().config
    teaching = _TeachingPass(
        session=session,
        store=store,
        model=model,
        load=load,
        term=term,
        observer=observer,
        teacher=teacher,
        top_k=top_k_of(teacher, config),
        vocabulary=vocabulary_of(config),
    )
    distributed.from_rank_zero(lambda: remove_leftovers(store, TEACHER_FOLDER, term=term))
    lessons = join_lessons(teaching.shard(number) for number in range(teaching.shards))
    queries, written = len(session.data.queries), len(session.data.train)
    answered = sum(lesson.row >= written for lesson in lessons.lessons)
    if queries and not answered and not written:
        advice = "; ".join(_ADVICE[reason] for reason in lessons.dropped)
        raise UserError.at(
            "spec.data.queries" if session.job.spec.data.queries else "spec.data.generate",
            f"no query has an answer that can be learned ({count_reasons(lessons.dropped)}); {advice}",
        )
    if queries and distributed.rank() == 0:
        text = f"the {model.title} answered {answered:,} of {queries:,} queries"
        left_out = f"; {count_reasons(lessons.dropped)}" if lessons.dropped else ""
        observer.emit(Note(text=text + left_out, warning=bool(lessons.dropped)))
    return lessons


@dataclass(frozen=True, kw_only=True)
class _TeachingPass:
    session: Session
    store: RunStore
    model: TeachingModel
    load: Callable[[str | None], None]
    term: int
    observer: Observer
    teacher: Teacher
    top_k: int
    vocabulary: int
    answered: "dict[int, _Answers]" = field(default_factory=dict)
    """The answers of the shards, by number, that are not scored yet."""

    @property
    def rows(self) -> range:
        """The indices of the rows that the teacher answers or scores, in the session's ``pool``."""
        written = len(self.session.data.train)
        scores_written = self.model.stage is not None and self.teacher.loss is not TeacherLoss.ANSWERS
        return range(0 if scores_written else written, written + len(self.session.data.queries))

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-len(self.rows) // SHARD_ROWS)

    def shard(self, number: int) -> Lessons:
        """Return the lessons of the shard with this number. Answer, score and commit it first if it is missing."""
        rows = self._rows_of(number)
        lessons = distributed.from_rank_zero(lambda: self._read(number, rows))
        if lessons is None:
            self.load(self.model.stage)
            if number not in self.answered:
                self._answer_shards(number)
            answers = self.answered.pop(number)
            answered = time.perf_counter()
            distributions = None
            if self.teacher.loss is not TeacherLoss.ANSWERS and answers.rows:
                scores = score_on_all_workers(self.session, answers.rows, self.top_k)
                distributions = end_where_cut(scores, answers.rows, answers.cut)
            cost = TeachingCost(
                answer_tokens=answers.tokens,
                answer_seconds=round(answers.seconds, 3),
                score_seconds=round(time.perf_counter() - answered, 3),
            )

            def commit() -> Lessons | None:
                with TemporaryDirectory(prefix="promptintern-") as folder:
                    write_shard(Path(folder), answers.shard, distributions)
                    commit_shard(
                        self.store,
                        self._folder(number),
                        local=Path(folder),
                        term=self.term,
                        parent=self.model.digest,
                        meta=cost.model_dump(by_alias=True),
                    )
                return self._read(number, rows)

            lessons = distributed.from_rank_zero(commit)
        assert lessons is not None
        if distributed.rank() == 0:
            self.observer.emit(ShardStored(teacher=self.model.name, number=number))
        return lessons

    def _rows_of(self, number: int) -> range:
        return self.rows[number * SHARD_ROWS : (number + 1) * SHARD_ROWS]

    def _answer_shards(self, first: int) -> None:
        """Answer the shard with the number ``first``, and those after it for which vLLM should not start again."""
        engine, scores = self.session.engine, self.teacher.loss is not TeacherLoss.ANSWERS
        count = SHARDS_PER_START if engine is not None and engine.shares_memory and scores else 1
        numbers = range(first, min(first + count, self.shards))
        missing = distributed.from_rank_zero(
            lambda: [number for number in numbers if self._read(number, self._rows_of(number)) is None]
        )
        for number in missing:
            self.answered[number] = self._answer(self._rows_of(number))

    def _folder(self, number: int) -> str:
        return shard_folder(self.model.name, number)

    def _read(self, number: int, rows: range) -> Lessons | None:
        manifest = shard_manifest(self.store, self._folder(number))
        if manifest is None:
            return None
        if manifest.parent != self.model.digest:  # the stage that teaches was removed and trained again
            self.store.check_term(self.term)
            remove_shard(self.store, self._folder(number))
            return None
        with TemporaryDirectory(prefix="promptintern-") as folder:
            fetch_shard(self.store, self._folder(number), manifest, Path(folder))
            return read_lessons(
                Path(folder),
                manifest.meta,
                teacher=self.teacher,
                rows=rows,
                written=len(self.session.data.train),
                top_k=self.top_k,
                vocabulary=self.vocabulary,
                where=f"{display_uri(self.store.store.uri)}/{self._folder(number)}",
            )

    def _answer(self, rows: range) -> "_Answers":
        """Return the written answers of the training rows among ``rows``, and let the teacher answer the queries."""
        written, train = len(self.session.data.train), self.session.data.train
        given = range(rows.start, max(rows.start, min(rows.stop, written)))
        answers = self._answer_queries(range(given.stop, rows.stop))
        if not given:
            return answers
        encoded = self.session.encoder.encode(self._prompts(given), [train[i].answer for i in given])
        return _Answers(
            shard=Shard(
                answers=[
                    *(
                        TeacherAnswer(row=i, text=train[i].answer, tokens=list(row.answer_ids))
                        for i, row in zip(given, encoded, strict=True)
                    ),
                    *answers.shard.answers,
                ],
                dropped=answers.shard.dropped,
            ),
            rows=[*encoded, *answers.rows],
            cut=[False] * len(encoded) + list(answers.cut),
            tokens=answers.tokens,
            seconds=answers.seconds,
        )

    def _prompts(self, rows: range) -> list[str]:
        return list(self.session.prompts_of(rows, self.model.template, self.model.shots))

    def _answer_queries(self, queries: range) -> "_Answers":
        """Let the teacher answer the queries with these indices in the session's ``pool``."""
        session, encoder = self.session, self.session.encoder
        prompts = self._prompts(queries)
        began = time.perf_counter() - session.engine_start_seconds
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
                    TeacherAnswer(row=i, text=answer.text, tokens=list(row.answer_ids)) for i, answer, row in kept
                ],
                dropped=[
                    UnansweredQuery(row=i, reason=fault) for i, fault in zip(queries, faults, strict=True) if fault
                ],
            ),
            rows=[row for _, _, row in kept],
            cut=[answer.ending is Ending.STOP for _, answer, _ in kept],
            tokens=sum(answer.tokens for answers in drawn for answer in answers),
            seconds=time.perf_counter() - session.engine_start_seconds - began,
        )

    def _draw(self, queries: range, prompts: Sequence[Sequence[int]], number: int) -> list[Answer]:
        """Return an answer to each prompt (token ids): the greedy one, or the sample with this number."""
        samples = self.teacher.samples
        count = samples.count if samples else 1
        first = queries.start - len(self.session.data.train)
        decoding = decoding_of(self.session)
        if samples:
            seed = self.session.job.spec.training.seed
            decoding = replace(decoding, temperature=samples.temperature, seed=(seed, first, number))
        return answer_prompts(
            self.session,
            prompts,
            use_adapter=self.model.stage is not None,
            name=self.model.title,
            observer=self.observer,
            decoding=decoding,
            done_before=first * count + number * len(queries),
            total=len(self.session.data.queries) * count,
        )


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """The answers to the rows of a shard."""

    shard: Shard
    rows: Sequence[Encoded]
    """The teacher's prompt and the answer of each row that has an answer."""
    cut: Sequence[bool]
    """Whether each of these answers was cut at a stop string, so that the teacher itself would have gone on."""
    tokens: int
    """The number of generated tokens, including those of answers that are left out."""
    seconds: float
    """The time that it took to generate them."""


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
