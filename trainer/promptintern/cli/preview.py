"""The terminal output of ``promptintern prepare``."""

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from promptintern.commands.preview import Preview
from promptintern.terminal import SafeConsole, printable


def print_preview(shown: Preview) -> None:
    """Print a table of the stages, then the prompt of the same row at every stage."""
    out = SafeConsole()
    for warning in shown.warnings:
        out.print(Text(f"warning: {warning}", style="yellow"))
    for reason, count in shown.dropped.items():
        out.print(Text(f"left out: {count} rows ({reason})", style="yellow"))
    table = Table(title=f"{shown.name}: {shown.rows} training rows", title_justify="left")
    for column in (
        "stage" if shown.max_stages is None else "position",
        "target rate",
        "achieved rate",
        "shots",
        "epochs",
        "prompt tokens (mean)",
        "(p95)",
        "training tokens",
    ):
        table.add_column(column, justify="right")
    if shown.max_stages is not None:
        table.caption = (
            f"The run takes at most {shown.max_stages} stages, at positions that it chooses by their scores."
        )
    for stage in shown.stages:
        table.add_row(
            str(stage.index + (shown.max_stages is None)),
            f"{stage.plan.requested_rate:.3f}",
            f"{stage.plan.achieved_rate:.3f}",
            str(stage.plan.shots),
            str(stage.plan.epochs),
            f"{stage.plan.prompt_tokens_mean:.1f}",
            f"{stage.plan.prompt_tokens_p95:.0f}",
            f"{stage.plan.training_tokens:,}",
        )
    out.print(table)
    out.print(f"\nThe prompt of the row at {shown.where}, at every stage:")
    for stage in shown.stages:
        out.print(Panel(Text(printable(stage.prompt)), title=f"stage {stage.index + 1}", title_align="left"))
    if shown.queries:
        out.print(
            f"The teacher answers {shown.queries:,} queries when the run begins. The training tokens above do not "
            "include its answers."
        )
    if shown.written is not None:
        out.print(
            Text(
                f"When the run begins, the base model writes {shown.written.count:,} queries, and the teacher answers "
                f"them. The figures above are of queries like these: {shown.written.summary}."
            )
        )
        lines = (f"{number}. {printable(query)}" for number, query in enumerate(shown.written.queries, start=1))
        out.print(Panel(Text("\n".join(lines)), title="written queries", title_align="left"))
    if shown.answer is not None:
        out.print(Panel(Text(printable(shown.answer)), title="answer (the training target)", title_align="left"))
