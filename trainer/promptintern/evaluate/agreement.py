"""Chooses the most frequent of several answers to one query."""

from collections import Counter
from collections.abc import Sequence

from promptintern.evaluate.generate import Answer, Ending
from promptintern.evaluate.metrics import normalise_answer


def most_frequent(answers: Sequence[Answer]) -> tuple[Answer, float]:
    """Return the most frequent of ``answers`` to one query, and its share of them.

    Answers are equal if they differ only in white space. An answer that reached the maximum number of tokens is equal
    to no other. Of several answers that are equally frequent, the first one is chosen.
    """
    keys = [
        f"unfinished {i}" if answer.ending is Ending.LENGTH else f"= {normalise_answer(answer.text)}"
        for i, answer in enumerate(answers)
    ]
    key, count = Counter(keys).most_common(1)[0]
    return answers[keys.index(key)], count / len(answers)
