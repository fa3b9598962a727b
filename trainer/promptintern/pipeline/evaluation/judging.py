"""Judges answers by what runs outside of this process: programs with tests, and a user's own scorer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from promptintern_api.evaluation import EvaluationSpec
from promptintern_api.metrics import Metric, Programs

from promptintern.engine import distributed
from promptintern.evaluate.scoring import Answers, score_answers
from promptintern.pipeline.session import Session
from promptintern.rows.types import Query, Row
from promptintern.sandbox.programs import AnswerWithTests, check_isolation, run_answers
from promptintern.sandbox.scorer import check_scorer, score_rows
from promptintern.sandbox.scorer_process import ScoredRow
from promptintern.sandbox.verdict import Verdict, passed


@dataclass(frozen=True, kw_only=True)
class HeldOutAnswers:
    """The answers of an arm or stage to the first held-out rows, with what was found out about them."""

    texts: list[str]
    verdicts: list[Verdict] | None = None
    """How the program in each answer ended; None if no program was run."""
    numbers: list[float | None] | None = None
    """The number that the user's scorer gave each answer, None for an answer on which it failed; None instead of the
    list if there is no scorer."""
    fault: str | None = None
    """The most frequent reason for which the scorer failed on an answer; None if it did not fail."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the answers in the committed document of an arm."""
        verdicts = document.get("verdicts")
        return cls(
            texts=document["predictions"],
            verdicts=None if verdicts is None else list(map(Verdict, verdicts)),
            numbers=document.get("numbers"),
            fault=document.get("fault"),
        )

    def first(self, count: int) -> "HeldOutAnswers":
        """Return the answers to the first ``count`` rows."""
        return replace(
            self,
            texts=self.texts[:count],
            verdicts=self.verdicts and self.verdicts[:count],
            numbers=self.numbers and self.numbers[:count],
        )


def judge(
    session: Session, texts: Sequence[str], metrics: Sequence[Metric], accepted: Sequence[Sequence[str]]
) -> HeldOutAnswers:
    """Return answers to the first held-out rows, judged as ``metrics`` need it. Each worker judges some of them.

    Args:
        session: The session of this worker.
        texts: The answers.
        metrics: The metrics that will be computed.
        accepted: The accepted answers to at least as many rows.

    Raises:
        UserError: if this machine cannot hold programs as the job requires.
    """
    evaluation, count = session.job.spec.evaluation, len(texts)
    settings, own = evaluation.programs or Programs(), distributed.own_share(count)
    verdicts: list[Verdict] | None = None
    numbers: list[float | None] | None = None
    faults: Counter[str] = Counter()
    if Metric.PASS_AT_1 in metrics:
        rows = [row for row in session.data.eval[:count] if isinstance(row, Row)]
        programs = [AnswerWithTests(answer=texts[i], tests=rows[i].tests, setup=rows[i].test_setup) for i in own]
        ended = [outcome.verdict for outcome in run_answers(programs, settings)]
        verdicts = distributed.gather_shares(ended, count)
    if Metric.SCORER in metrics and evaluation.scorer is not None:
        scored = [ScoredRow(query=session.data.eval[i].query, answers=accepted[i], prediction=texts[i]) for i in own]
        found = score_rows(scored, evaluation.scorer, check_isolation(evaluation.programs, Metric.SCORER))
        numbers = distributed.gather_shares(found.numbers, count)
        for part in distributed.gather_objects(found.faults):
            faults += part
    fault = faults.most_common(1)[0][0] if faults else None
    return HeldOutAnswers(texts=list(texts), verdicts=verdicts, numbers=numbers, fault=fault)


def score_held_out(
    evaluation: EvaluationSpec, metric: Metric, answers: HeldOutAnswers, accepted: Sequence[Sequence[str]]
) -> float:
    """Return the score of answers to the first held-out rows.

    Args:
        evaluation: The job's evaluation.
        metric: The metric, for which the answers must have been judged.
        answers: The answers.
        accepted: The accepted answers to at least as many rows.
    """
    return score_answers(metric, with_accepted(evaluation, answers, accepted))


def with_accepted(evaluation: EvaluationSpec, answers: HeldOutAnswers, accepted: Sequence[Sequence[str]]) -> Answers:
    """Return answers to the first held-out rows with the accepted answers to at least as many rows."""
    return Answers(
        predictions=answers.texts,
        accepted=accepted[: len(answers.texts)],
        passed=passed(answers.verdicts),
        numbers=answers.numbers,
        normalizers=evaluation.normalizers or (),
    )


def check_judges(evaluation: EvaluationSpec, held_out: Sequence[Query]) -> None:
    """Check that programs and the scorer can run here as the job requires, if the job has any.

    The scorer is tried on the first held-out row, with its first accepted answer as the answer. If the rows have no
    written answers, it is only loaded.

    Raises:
        UserError: if they cannot.
    """
    if Metric.PASS_AT_1 in evaluation.metrics:
        check_isolation(evaluation.programs)
    if Metric.SCORER in evaluation.metrics and evaluation.scorer is not None:
        isolation = check_isolation(evaluation.programs, Metric.SCORER)
        row = held_out[0] if held_out else None
        tried: ScoredRow | None = None
        if isinstance(row, Row):
            tried = ScoredRow(query=row.query, answers=row.answers, prediction=row.answers[0])
        check_scorer(tried, evaluation.scorer, isolation)
