"""The arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="YAML file with a PromptInternJob.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field of the spec; may be repeated.", show_default=False),
]
BaseModel = Annotated[
    str | None, typer.Option(help="URI of the base model, if it is no longer where it was during training.")
]
