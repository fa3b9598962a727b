"""Writes docs/real.md from the finished runs, with sentences that follow from the figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptintern.report import formatting
from promptintern.report.schema import Comparison, Figure, Report
from promptintern_api.metrics import Metric

from benchmarks.real.record import Measured
from benchmarks.real.tasks import TASKS

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the comparison of two arms answers, and the answer if the first arm is better or worse."""

    arm: str
    against: str
    text: str
    better: str
    worse: str


QUESTIONS = (
    Question(
        arm="FullPrompt",
        against="Base",
        text="Did the prompt help the base model?",
        better="Yes",
        worse="No, it did harm",
    ),
    Question(
        arm="QueryOnly",
        against="Direct",
        text="Did the stages beat plain fine-tuning on the query alone?",
        better="Yes",
        worse="No, plain fine-tuning was better",
    ),
    Question(
        arm="QueryOnly",
        against="FullPromptTuned",
        text="Does the query alone reach what fine-tuning reaches if the prompt stays?",
        better="Yes, and more",
        worse="No",
    ),
)
TEACHER_QUESTIONS = (
    QUESTIONS[0],
    Question(
        arm="QueryOnly",
        against="Direct",
        text="Did the teacher's answers help, beyond plain fine-tuning on the 16 written answers?",
        better="Yes",
        worse="No, they did harm",
    ),
)
_ARM_ORDER = (
    "FullPrompt",
    "FullPromptTuned",
    "QueryOnly",
    "KeptStage",
    "Direct",
    "TemplateOnly",
    "CompressedOnly",
    "Base",
)


def write_page(runs: Sequence[Measured]) -> None:
    """Write docs/real.md."""
    (DOCS / "real.md").write_text(page_of(runs))


def page_of(runs: Sequence[Measured]) -> str:
    """Return docs/real.md."""
    groups: dict[tuple[object, ...], list[Measured]] = {}
    for run in sorted(runs, key=lambda run: (run.model, run.task, run.has_teacher, run.seed)):
        groups.setdefault(_key(run), []).append(run)
    sections = [_section(group) for group in groups.values()]
    return "\n".join([_HEAD, *sections])


def _key(run: Measured) -> tuple[object, ...]:
    """Return what the runs of a section have in common: everything but the seed."""
    data = run.report.data
    rows = tuple(source.rows if source else 0 for source in (data.train, data.queries, data.eval))
    return run.model, run.task, run.has_teacher, rows, run.job


def answer(question: Question, comparisons: Sequence[Comparison]) -> str:
    """Return the answer to a question from comparisons in one metric, one for each seed.

    The rule: an arm is better, or worse, if the corrected p-value is at most 0.05 with every seed. Otherwise the rows
    cannot tell, and the sentence says which difference they would show.
    """
    metric = comparisons[0].metric
    values = [comparison.difference.value for comparison in comparisons]
    readings = {comparison.reading for comparison in comparisons}
    shown = ", ".join(formatting.difference(metric, value, unit=False) for value in values)
    figures = f"{question.arm} minus {question.against}: {shown} points"
    if readings == {"better"}:
        return f"{question.better} ({figures})."
    if readings == {"worse"}:
        return f"{question.worse} ({figures})."
    largest = max(comparison.smallest_difference for comparison in comparisons)
    would = f"they would show a difference of {formatting.unsigned_difference(metric, largest)} points"
    who = "These rows cannot tell" if len(readings) == 1 else "Not every seed can tell"
    return f"{who} ({figures}; {would})."


def kept(runs: Sequence[Measured]) -> str:
    """Return whether internalization kept what the prompt gave, by the verdicts of all seeds."""
    outcomes = [str(run.report.verdict.outcome) for run in runs]
    if len(set(outcomes)) == 1:
        seeds = "" if len(runs) == 1 else f" with each of {len(runs)} seeds"
        return f"The verdict is {outcomes[0]}{seeds}."
    return f"The verdicts differ between seeds: {', '.join(outcomes)}."


def _section(runs: Sequence[Measured]) -> str:
    first = runs[0]
    task, report = TASKS[first.task], first.report
    metrics = report.metrics
    data = report.data
    train = data.train.rows if data.train else 0
    hours = [f"{run.seconds / 3600:.1f}" for run in runs]
    lines = [
        f"## {first.model}, {task.title}{', with a teacher' if first.has_teacher else ''}",
        "",
        f"{train} training rows{_queries(report)}, {report.arms[0].rows} held-out rows, {_seeds(runs)}. "
        f"{_origin(first)} Base weights in {first.dtype}. The {'run' if len(runs) == 1 else 'runs'} took "
        f"{', '.join(hours)} h on {report.job.device}{_machines(runs)}.",
        "",
        f"| arm | {' | '.join(_heading(metric) for metric in metrics)} | prompt tokens |",
        f"|---|{'---:|' * len(metrics)}---:|",
    ]
    for name in sorted((arm.name for arm in report.arms), key=_order):
        arms = [arm for run in runs if (arm := run.report.arm(name)) is not None]
        cells = [_cell(metric, [arm.figure(metric) for arm in arms]) for metric in metrics]
        lines.append(f"| {name} | {' | '.join(cells)} | {formatting.mean(arms[0].prompt_tokens.mean)} |")
    lines += ["", f"By {formatting.METRIC_NAMES[metrics[0]]}, the first metric:", ""]
    lines.append(f"- Did internalization keep what the prompt gave? {kept(runs)}")
    for question in TEACHER_QUESTIONS if first.has_teacher else QUESTIONS:
        pair = (metrics[0], question.arm, question.against)
        comparisons = [c for run in runs for c in run.report.comparisons if (c.metric, c.arm, c.against) == pair]
        if comparisons:
            lines.append(f"- {question.text} {answer(question, comparisons)}")
    lines += ["", *(f"- Wall time{_of_seed(run, runs)}: {_phases(run)}." for run in runs if run.report.wall_time)]
    lines += [
        "",
        *(
            f"- Seed {run.seed}, verdict **{run.report.verdict.outcome}**: {run.report.verdict.headline}"
            for run in runs
        ),
    ]
    return "\n".join([*lines, ""])


def _queries(report: Report) -> str:
    queries = report.data.queries
    return f", and {queries.rows} queries that the base model with the full prompt answered" if queries else ""


def _of_seed(run: Measured, runs: Sequence[Measured]) -> str:
    return f" of seed {run.seed}" if len(runs) > 1 else ""


def _phases(run: Measured) -> str:
    time = run.report.wall_time
    remark = f" ({run.remark})" if run.remark else ""
    return f"{formatting.duration(time.seconds)}, of which {formatting.shares(time.phases)}{remark}" if time else ""


def _heading(metric: Metric) -> str:
    return f"{formatting.METRIC_NAMES[metric]}, 95 % interval over rows"


def _cell(metric: Metric, figures: Sequence[Figure]) -> str:
    """Return the score of seed 0 with its interval over rows and, with several seeds, the spread between them."""
    first = formatting.score_with_interval(metric, figures[0])
    if len(figures) == 1:
        return first
    return f"{first}; {len(figures)} seeds: {formatting.mean_with_spread(metric, figures)}"


def _order(name: str) -> tuple[int, str]:
    return next(
        number
        for number, each in enumerate(_ARM_ORDER)
        if name.startswith(each) and (each != "FullPrompt" or name == each)
    ), name


def _seeds(runs: Sequence[Measured]) -> str:
    return "one seed" if len(runs) == 1 else f"{len(runs)} seeds"


def _machines(runs: Sequence[Measured]) -> str:
    names = "; ".join(sorted({run.machine for run in runs}))
    return f" ({names})" if names else ""


def _origin(run: Measured) -> str:
    origin = run.origin
    if not origin:
        return "The weights come from a folder of safetensors."
    return (
        f"The weights are dequantized from {origin['quantization']} (from the packages "
        f"{', '.join(origin['packages'])}), so they are not the original ones; licence {origin['licence']}."
    )


_HEAD = """# Pretrained models on real tasks

`make real` writes this page. It trains pretrained models on public data sets: NL2Bash (MIT), MBPP (CC-BY-4.0) and NL-RX
(MIT). Each job has three stages and three retrieved examples; its settings are the same for all models, and were not
tuned on held-out rows. [report.md](report.md) says how scores, intervals and tests are computed.

A sentence says yes or no only if the corrected p-value is at most 0.05 with every seed; otherwise it says that the rows
cannot tell, and which difference they would show.
"""
