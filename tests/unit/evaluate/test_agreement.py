"""The most frequent of several answers."""

import pytest
from promptintern.evaluate.agreement import most_frequent
from promptintern.evaluate.generate import Answer, Ending


def answer(text: str, ending: Ending = Ending.END_TOKEN) -> Answer:
    return Answer(text=text, tokens=3, ending=ending)


@pytest.mark.parametrize(
    ("texts", "chosen", "share"),
    [
        (["a"], 0, 1.0),
        (["a", "b", "b"], 1, 2 / 3),
        (["a", "b", "b", "a"], 0, 0.5),  # the first of two that are equally frequent
        (["x y", "z", " x  y\n"], 0, 2 / 3),
        (["", " "], 0, 1.0),
    ],
)
def test_the_most_frequent_answer(texts: list[str], chosen: int, share: float) -> None:
    answers = [answer(text) for text in texts]
    found, found_share = most_frequent(answers)
    assert found is answers[chosen]
    assert found_share == pytest.approx(share)


def test_unfinished_answers_agree_with_no_other() -> None:
    answers = [answer("a", Ending.LENGTH), answer("a", Ending.LENGTH), answer("b"), answer("b")]
    assert most_frequent(answers) == (answers[2], 0.5)
    assert most_frequent(answers[:2]) == (answers[0], 0.5)
