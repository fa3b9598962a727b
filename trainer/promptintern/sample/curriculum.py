"""What the sample model reads while it is pretrained: one thing is added at a time."""

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
    """A run of text; answers are what the loss is on."""

    text: str
    is_answer: bool


class Task(StrEnum):
    """What an answer is."""

    BARE = "recall from pairs written word after word"
    RECALL = "recall from pairs written with signs"
    ASK = "the code of a word that is named in a question"
    FORMULA = "a whole formula"


@dataclass(frozen=True, kw_only=True)
class Level:
    """One kind of document. Each level adds one thing to the one before it."""

    name: str
    task: Task = Task.FORMULA
    columns: int = NUM_COLUMNS
    functions: int = NUM_FUNCTIONS
    regions: int = NUM_REGIONS
    pool: int | None = None
    """Nouns and codes that worlds draw from. None: all."""
    answers: int = 8
    """Answers in a document: all of them teach, and all earlier ones are examples to the later ones."""
    sentences: bool = True
    """Questions in sentences rather than as bare words."""
    places: bool = True
    pairs: bool = True
    """Formulas of two columns."""
    days: bool = True
    signs: bool = True
    """Brackets, separator and mark differ from world to world, and a line of rules says which they are."""
    prose: bool = True
    """The whole template."""
    batch: int = 64
    min_accuracy: float = 0.97
    """Share of answer tokens (the end token included) that must be right on fresh worlds."""


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
    """A fresh world at that level, and answers about it."""
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
        # The parts are tokenized apart, so even without a sign between them they stay two tokens.
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
