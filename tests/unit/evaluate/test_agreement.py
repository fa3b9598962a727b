"""The most frequent of several answers."""

import pytest
from promptintern.answering.answers import Answer, Ending
from promptintern.evaluate.agreement import are_unfinished, most_frequent


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


def test_unfinished_answers_count_only_if_there_are_no_others() -> None:
    cut, good = answer("a", Ending.LENGTH), answer("b")
    assert most_frequent([cut, good]) == (good, 0.5)
    assert most_frequent([good, cut]) == (good, 0.5)
    assert most_frequent([cut, cut, good]) == (good, pytest.approx(1 / 3))
    assert most_frequent([cut, cut])[0] is cut
    assert are_unfinished([cut, cut, good])
    assert are_unfinished([cut, good])
    assert not are_unfinished([cut, good, good])
