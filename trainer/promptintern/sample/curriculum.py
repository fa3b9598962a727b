"""The curriculum for pretraining the sample model. Each level is harder than the previous one."""

import random
from dataclasses import dataclass, replace
from enum import StrEnum

from promptintern.sample.prose import CUE, list_pairs, world_template
from promptintern.sample.words import BRACKETS, MARKS, SEPARATORS
from promptintern.sample.worlds import (
    NUM_COLUMNS,
    NUM_FUNCTIONS,
    NUM_REGIONS,
    World,
    answer_question,
    make_world,
    random_question,
    word_question,
)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a document. The loss is computed only on spans that are answers."""

    text: str
    is_answer: bool


class Task(StrEnum):
    """The kind of task in a document, which is solved by each answer."""

    BARE = "recall from pairs written word after word"
    RECALL = "recall from pairs written with signs"
    ASK = "the code of a word that is named in a question"
    FORMULA = "a whole formula"


@dataclass(frozen=True, kw_only=True)
class Level:
    """A level of the curriculum: a kind of document, with one difficulty more than on the previous level."""

    name: str
    task: Task = Task.FORMULA
    columns: int = NUM_COLUMNS
    functions: int = NUM_FUNCTIONS
    regions: int = NUM_REGIONS
    pool: int | None = None
    """Worlds are drawn from only this number of nouns and of codes, or from all of them if it is None."""
    answers: int = 8
    """The number of answers in a document. The loss covers them all, and each is an example for later answers."""
    sentences: bool = True
    """Whether questions are sentences rather than bare words."""
    places: bool = True
    """Whether questions may name a place."""
    pairs: bool = True
    """Whether formulas may have two columns."""
    days: bool = True
    """Whether questions may name a number of days."""
    signs: bool = True
    """Whether brackets, separator and mark differ between worlds. If so, a line in each document states them."""
    prose: bool = True
    """Whether a document contains the whole prompt template of its world."""
    batch: int = 64
    min_accuracy: float = 0.97
    """The share of answer tokens, including the end token, that must be right, in new worlds, to pass the level."""


def _levels() -> tuple[Level, ...]:
    pairs = Level(
        name="five pairs, few words",
        task=Task.BARE,
        columns=5,
        functions=0,
        regions=0,
        pool=16,
        answers=10,
        min_accuracy=0.95,
    )
    words = replace(pairs, name="five pairs", pool=None)
    signs = replace(words, name="pairs with signs", task=Task.RECALL)
    ten = replace(signs, name="ten pairs", columns=10, answers=20)
    lists = replace(ten, name="three lists", columns=6, functions=4, regions=3, answers=13, min_accuracy=0.97)
    ask = replace(lists, name="asked words", task=Task.ASK)
    call = replace(
        ask,
        name="formulas",
        task=Task.FORMULA,
        answers=8,
        sentences=False,
        places=False,
        pairs=False,
        days=False,
        signs=False,
        prose=False,
    )
    sentences = replace(call, name="sentences", sentences=True, columns=8)
    two = replace(sentences, name="two columns", pairs=True)
    where = replace(two, name="places", places=True)
    large = replace(where, name="all lists", columns=NUM_COLUMNS, functions=NUM_FUNCTIONS, regions=NUM_REGIONS)
    days = replace(large, name="days", days=True)
    rules = replace(days, name="rules", signs=True)
    prose = replace(rules, name="prose", prose=True, batch=32)
    return (pairs, words, signs, ten, lists, ask, call, sentences, two, where, large, days, rules, prose)


LEVELS = _levels()


def make_document(level: Level, seed: str) -> list[Span]:
    """Return a document of ``level`` about a new world. The document depends only on ``level`` and ``seed``."""
    rng = random.Random(f"{seed}/questions")
    world = make_world(
        seed,
        num_columns=level.columns,
        num_functions=level.functions,
        num_regions=level.regions,
        pool=level.pool,
    )
    if not level.signs:
        world = replace(world, brackets=BRACKETS[0], separator=SEPARATORS[0], mark=MARKS[0])
    if level.task is Task.FORMULA:
        return _formulas(level, world, rng)
    return _recall(level, world, rng)


def _formulas(level: Level, world: World, rng: random.Random) -> list[Span]:
    spans = [Span(text=_header(level, world), is_answer=False)]
    for _ in range(level.answers):
        question = random_question(world, rng, pairs=level.pairs, days=level.days, regions=level.places)
        text = word_question(question) if level.sentences else f"the {question.aggregate} {question.nouns[0]}"
        spans += [
            Span(text=text + CUE, is_answer=False),
            Span(text=answer_question(world, question), is_answer=True),
            Span(text="\n", is_answer=False),
        ]
    return spans


def _recall(level: Level, world: World, rng: random.Random) -> list[Span]:
    pairs = [*world.columns.items(), *world.functions.items(), *world.regions.items()]
    if level.task is Task.BARE:
        # Word and code are tokenized separately, so they remain two tokens even without a sign between them.
        spans = [Span(text=part, is_answer=False) for word, code in pairs for part in (f" {word}", code)]
        spans.append(Span(text="\n", is_answer=False))
    else:
        spans = [Span(text=_lists(world), is_answer=False)]
    before, after = {Task.BARE: (" ", ""), Task.RECALL: (" ", "="), Task.ASK: ("the ", CUE)}[level.task]
    end = "\n" if level.task is Task.ASK else ","
    for _ in range(level.answers // len(pairs)):
        for word, code in rng.sample(pairs, len(pairs)):
            spans += [
                Span(text=before + word + after, is_answer=False),
                Span(text=code, is_answer=True),
                Span(text=end, is_answer=False),
            ]
    return spans


def _header(level: Level, world: World) -> str:
    if level.prose:
        return world_template(world).partition("{examples}")[0]
    if not level.signs:
        return _lists(world)
    left, right = world.brackets
    return f"{_lists(world)}Rules: {left} and {right}, {world.separator} between columns, {world.mark} and the place.\n"


def _lists(world: World) -> str:
    lists = (("Columns", world.columns), ("Functions", world.functions), ("Places", world.regions))
    return "".join(f"{title}: {list_pairs(pairs)}.\n" for title, pairs in lists if pairs)
