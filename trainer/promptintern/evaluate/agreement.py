"""Chooses the most frequent of several answers to one query."""

from collections import Counter
from collections.abc import Sequence

from promptintern.answering.answers import Answer, Ending
from promptintern.evaluate.normalizers import normalise


def most_frequent(answers: Sequence[Answer]) -> tuple[Answer, float]:
    """Return the most frequent of ``answers`` to one query, and its share of all of them.

    Answers are equal if they differ only in white space. Answers that reached the maximum number of tokens count only
    if there are no others. Of several answers that are equally frequent, the first one is chosen.
    """
    finished = [answer for answer in answers if answer.ending is not Ending.LENGTH]
    if not finished:
        return answers[0], 1 / len(answers)
    counts = Counter(normalise(answer.text) for answer in finished)
    text, count = counts.most_common(1)[0]
    return next(answer for answer in finished if normalise(answer.text) == text), count / len(answers)


def are_unfinished(answers: Sequence[Answer]) -> bool:
    """Return whether at least half of ``answers`` reached the maximum number of tokens."""
    return 2 * sum(answer.ending is Ending.LENGTH for answer in answers) >= len(answers)
