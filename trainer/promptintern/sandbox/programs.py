"""Runs the programs in a model's answers, several at a time."""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from promptintern_api.metrics import Metric, ProgramIsolation, Programs
from promptintern_api.quantity import parse_quantity

from promptintern.errors import UserError
from promptintern.sandbox.process import Isolation, Limits, Outcome, find_isolation, run_program

_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_FIELD = "spec.evaluation.metrics"


@dataclass(frozen=True, kw_only=True)
class AnswerWithTests:
    """An answer that contains a program, and the tests that the program has to pass."""

    answer: str
    tests: Sequence[str]
    setup: str = ""


def program_of(answer: str) -> str:
    """Return the program in an answer: its first Markdown code block, or the whole answer if it has none.

    A block that the answer does not end, because the answer was cut, reaches to its end.
    """
    block = _FENCE.search(answer)
    return block[1] if block else answer


def check_isolation(settings: Programs | None, metric: Metric = Metric.PASS_AT_1) -> Isolation:
    """Return what this machine offers to hold programs.

    Args:
        settings: The settings of the job, or None for the defaults.
        metric: The metric that runs programs: PassAt1, or Scorer, which runs one of the user's.

    Raises:
        UserError: if this is less than the job requires.
    """
    found, required = find_isolation(), (settings or Programs()).isolation
    what = f"has {metric}, which runs " + ("programs that a model wrote" if metric is Metric.PASS_AT_1 else "a program")
    if not found.filters_calls:
        raise UserError.at(
            _FIELD,
            f"{what}; that is possible only on Linux, on x86_64 or aarch64, where a seccomp filter can hold it",
        )
    if not found.is_complete and required is ProgramIsolation.REQUIRED:
        raise UserError.at(
            _FIELD,
            f"{what}, but this kernel has no Landlock (Linux 5.13 or "
            "newer, with landlock among the LSMs), so programs could read and write other files; use such a kernel, or "
            "set spec.evaluation.programs.isolation: Partial if that is acceptable here",
        )
    return found


def limits_of(settings: Programs) -> Limits:
    """Return the limits that a job sets."""
    return Limits(seconds=settings.timeout_seconds, memory=int(parse_quantity(settings.memory)))


def run_answers(answers: Sequence[AnswerWithTests], settings: Programs) -> list[Outcome]:
    """Run the programs in ``answers``, one on each core, and return how each of them ended.

    Raises:
        UserError: if this machine cannot hold programs as the job requires.
    """
    isolation, limits = check_isolation(settings), limits_of(settings)

    def run(each: AnswerWithTests) -> Outcome:
        return run_program(program_of(each.answer), each.tests, setup=each.setup, limits=limits, isolation=isolation)

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)), thread_name_prefix="program") as threads:
        return list(threads.map(run, answers))
