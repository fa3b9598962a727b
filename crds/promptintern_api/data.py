"""spec.data: the rows that teach and the rows that judge."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel
from promptintern_api.references import DataUri

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class DataFormat(StrEnum):
    """How a data file is read."""

    AUTO = "Auto"
    JSONL = "JSONL"
    PARQUET = "Parquet"
    CHAT = "Chat"


class OnProblem(StrEnum):
    """What happens to a row that cannot be used as it is."""

    ERROR = "Error"
    DROP = "Drop"


class Columns(ApiModel):
    """The names that the file gives its fields."""

    query: Annotated[ColumnName, Field(description="Column with the query.")] = "query"
    answer: Annotated[
        ColumnName,
        Field(
            description=(
                "Column with the answer. A list of strings is read as several accepted answers, the first one taught."
            )
        ),
    ] = "answer"
    answers: Annotated[
        ColumnName | None,
        Field(description=("Column with further accepted answers (a list of strings). They count in evaluation only.")),
    ] = None
    tests: Annotated[
        ColumnName | None,
        Field(description="Column with tests of a program (a list of strings), kept for pass@1."),
    ] = None
    id: Annotated[
        ColumnName | None,
        Field(description="Column with the row's own name, shown in messages. Without it: the line number."),
    ] = None


class DataSource(ApiModel):
    """One file of rows."""

    uri: Annotated[
        DataUri,
        Field(
            description=(
                "s3://BUCKET/KEY, file:///PATH or sample://formulas/... A JSONL file (one JSON object a "
                'line, UTF-8), a Parquet file, or chat JSONL ({"messages": [{"role": '
                '"system"|"user"|"assistant", "content": ...}]}).'
            )
        ),
    ]
    format: Annotated[
        DataFormat,
        Field(description=("Auto takes Parquet for .parquet, Chat where the first line has `messages`, else JSONL.")),
    ] = DataFormat.AUTO
    columns: Annotated[Columns, Field(description="Names of the file's columns.")] = Columns()
    limit: Annotated[
        int | None, Field(ge=1, le=100_000_000, description="Use the first so many rows only. Default: all.")
    ] = None


class DataSpec(ApiModel):
    """Training and held-out rows."""

    train: Annotated[DataSource, Field(description="Rows to learn from; examples are retrieved from them as well.")]
    eval: Annotated[DataSource, Field(description="Held-out rows that every arm answers.")]
    on_leak: Annotated[
        OnProblem,
        Field(
            description=(
                "What to do when a query of `eval` also stands in `train` (compared without case, spaces "
                "and end punctuation): Error refuses the job and names the rows, Drop leaves the row out of "
                "`train` and counts it."
            )
        ),
    ] = OnProblem.ERROR
    on_too_long: Annotated[
        OnProblem,
        Field(
            description=(
                "What to do with a training row whose longest prompt and answer pass training.maxTokens: "
                "Error refuses the job and names the row, Drop leaves it out of every stage and counts it. "
                "Nothing is ever truncated."
            )
        ),
    ] = OnProblem.ERROR
