"""Writes the prompt template of a world: instructions, schema, rules and hints, in the words of a working team."""

import random
from collections.abc import Mapping

from promptintern.sample.worlds import World

EXAMPLE_TEMPLATE = "{query}\n={answer}\n"
CUE = "\n="
"""The end of every prompt. The formula starts after the equals sign."""

ROLES = (
    "You are the assistant of an analyst who asks for figures in plain English.",
    "You help a sales team that does not want to learn the formula language of its reports.",
    "You translate the questions of a busy manager into the formulas of our reporting tool.",
    "Our planning tool has a formula language of its own, and you are the one who writes it.",
)
TASKS = (
    "Read the question, look up every word in the lists below, and write one formula.",
    "For each question write exactly one formula, with the names that are listed below.",
    "Turn the question into a single formula and use only the names in these lists.",
)
RULES_FIRST = (
    "Write the function first, then its columns between {left} and {right} without spaces.",
    "A formula starts with the function; its columns follow between {left} and {right} with no spaces.",
)
RULES_SECOND = (
    "Use {separator} between two columns, or between a column and a number of days.",
    "Put {separator} between a column and what follows it: a second column or the number of days.",
)
RULES_THIRD = (
    "If the question names a place, add {mark} and the code of the place at the end.",
    "A place comes last: write {mark} and then its code after the closing bracket.",
)
HINTS = (
    "Keep the columns in the order of the question.",
    "Never guess a name that is not in the lists.",
    "Do not explain the formula and do not repeat the question.",
    "The number of days is written in digits, as in the question.",
    "Politeness in the question changes nothing.",
    "When no place is named, the formula covers all places.",
    "Write nothing after the formula.",
    "The tool refuses a formula with small letters.",
    "Each question stands alone: forget the ones before it.",
)


def world_template(world: World) -> str:
    """Return the prompt template of ``world``, with ``{examples}`` and ``{query}``. The template ends with ``CUE``."""
    rng = random.Random(f"{world.name}/prose")
    left, right = world.brackets
    rules = [
        rng.choice(bank).format(left=left, right=right, separator=world.separator, mark=world.mark)
        for bank in (RULES_FIRST, RULES_SECOND, RULES_THIRD)
    ]
    return "\n".join(
        [
            f"{rng.choice(ROLES)} {rng.choice(TASKS)}",
            f"Columns: {list_pairs(world.columns)}.",
            f"Functions: {list_pairs(world.functions)}.",
            f"Places: {list_pairs(world.regions)}.",
            "Rules:",
            *(f"- {line}" for line in [*rules, *rng.sample(HINTS, 3)]),
            "Examples:",
            "{examples}{query}" + CUE,
        ]
    )


def list_pairs(mapping: Mapping[str, str]) -> str:
    """Return the pairs of ``mapping`` as text, such as ``sales=QX, price=LM``."""
    return ", ".join(f"{word}={code}" for word, code in mapping.items())
