"""Decides, before anything is trained, whether it is worth trying to internalize a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptintern_api.metrics import Metric

from promptintern.evaluate.comparing import clusters_of, compare, score_interval
from promptintern.evaluate.intervals import Interval
from promptintern.evaluate.scoring import Answers, row_statistics
from promptintern.evaluate.significance import LEVEL, smallest_difference
from promptintern.report import formatting

LEAST_SAVED = 0.2
"""The share of prompt tokens that must be saved, so that the effort can pay."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far the full prompt helps the base model, on the sampled rows."""

    full: Interval
    base: Interval
    difference: Interval
    p_value: float

    @property
    def smallest(self) -> float:
        """The smallest difference that so many rows would show four times out of five."""
        return smallest_difference(self.difference)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is known before training."""

    metric: Metric
    rows: int
    """The number of held-out rows that were answered."""
    prompt: Difference
    max_drop: float
    """The allowed loss, as a share of the metric's range."""
    tokens_before: float
    tokens_after: float
    kept_tokens: int
    """The number of tokens with which all full prompts begin, which a server may keep."""
    uncovered: Sequence[str] = ()
    """The entries of the template's lists that no training row mentions."""
    training_seconds: float | None = None
    """The estimated training time of all stages on this machine; None if there are no written answers to time it on."""
    answer_seconds: float
    """The estimated time in which all arms answer all held-out rows."""
    pays_from: int | None = None
    pays_from_if_kept: int | None = None
    has_prices: bool = False

    @property
    def saved(self) -> float:
        """The share of prompt tokens that the query alone saves."""
        return 1 - self.tokens_after / self.tokens_before if self.tokens_before else 0.0


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Whether it is worth trying, in one sentence; ``is_worth`` is None if the rows cannot tell."""

    is_worth: bool | None
    sentence: str


def compare_arms(metric: Metric, full: Answers, base: Answers, queries: Sequence[str]) -> Difference:
    """Return how far the full prompt helps, from the answers of FullPrompt and Base to the same queries."""
    clusters = clusters_of(queries)
    tables = [row_statistics(metric, answers) for answers in (full, base)]
    difference, p_value = compare(metric, tables[0], tables[1], clusters)
    return Difference(
        full=score_interval(metric, tables[0], clusters),
        base=score_interval(metric, tables[1], clusters),
        difference=difference,
        p_value=p_value,
    )


def advise(estimate: Estimate) -> Advice:
    """Return whether it is worth trying. The first rule whose condition holds decides.

    1. FullPrompt scores at most the allowed loss: no, the model cannot do the task with the prompt either.
    2. The query alone saves less than ``LEAST_SAVED`` of the prompt tokens: no.
    3. The job has a price of devices, and the savings never exceed the cost of training: no.
    4. The prompt makes the model better, by the test at 5 %: yes.
    5. The interval shows that the prompt helps by less than the allowed loss: no, the query alone does as well.
    6. Otherwise, the rows cannot tell.
    """
    metric, prompt = estimate.metric, estimate.prompt
    full = formatting.named_score(metric, prompt.full.value)
    base = formatting.score(metric, prompt.base.value)
    both = f"{full} with the full prompt, {base} with the query alone"
    allowed = estimate.max_drop * metric.largest
    saved = formatting.percent(estimate.saved)
    if prompt.full.value <= allowed:
        return Advice(
            is_worth=False,
            sentence=f"Not worth trying: this model hardly ever answers right, even with the full prompt ({both}). "
            "Choose a larger model or a better prompt first.",
        )
    if estimate.saved < LEAST_SAVED:
        return Advice(
            is_worth=False,
            sentence=f"Not worth trying: the query alone saves only {saved} of the prompt tokens.",
        )
    if estimate.has_prices and estimate.pays_from is None:
        return Advice(
            is_worth=False,
            sentence="Not worth trying: at these prices, the training never pays, because a query costs no less.",
        )
    if prompt.p_value <= LEVEL and prompt.difference.value > 0:
        return Advice(
            is_worth=True,
            sentence=f"Worth trying: the prompt helps this model ({both}), and the query alone would save {saved} of "
            "the prompt tokens.",
        )
    if prompt.difference.high <= allowed:
        return Advice(
            is_worth=False,
            sentence=f"Not worth trying: the prompt does not help this model ({both}), so the query alone does as well "
            "today.",
        )
    would = formatting.unsigned_difference(metric, prompt.smallest)
    return Advice(
        is_worth=None,
        sentence=f"These {estimate.rows} rows cannot tell whether the prompt helps this model ({both}); they would "
        f"show a difference of {would} points. Use more held-out rows.",
    )
