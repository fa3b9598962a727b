"""spec.data: training rows, queries without answers, and held-out rows."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from promptintern_api.base import ApiModel, Number, Rule
from promptintern_api.uris import DataUri

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class DataFormat(StrEnum):
    """The format of a data file."""

    AUTO = "Auto"
    JSONL = "JSONL"
    PARQUET = "Parquet"
    CHAT = "Chat"
    CSV = "CSV"
    TSV = "TSV"


class OnProblem(StrEnum):
    """The action taken on a row that cannot be used as it is."""

    ERROR = "Error"
    DROP = "Drop"


class Columns(ApiModel):
    """The names of the columns (keys of a JSON object) that hold the parts of a row."""

    query: Annotated[ColumnName, Field(description="Column with the query, which is text.")] = "query"
    answer: Annotated[
        ColumnName,
        Field(
            description="Column with the answer: text, or a list of accepted answers of which the first is trained on."
        ),
    ] = "answer"
    answers: Annotated[
        ColumnName | None,
        Field(
            description=(
                "Column with a list of further accepted answers, which count only in the evaluation. If it is left "
                "out, a row has no further answers."
            )
        ),
    ] = None
    tests: Annotated[
        ColumnName | None,
        Field(
            description=(
                "Column with a list of tests for the program in the answer: Python statements, most of them "
                "assertions, which the metric PassAt1 runs. If it is left out, a row has no tests."
            )
        ),
    ] = None
    test_setup: Annotated[
        ColumnName | None,
        Field(
            description=(
                "Column with Python code that runs after the program and before its tests. It may be empty. If it is "
                "left out, nothing runs in between."
            )
        ),
    ] = None
    id: Annotated[
        ColumnName | None,
        Field(description="Column with the name of the row. If it is left out, the line number is the name."),
    ] = None


class DataSource(ApiModel):
    """A file of rows, or several files whose rows follow each other."""

    uri: Annotated[
        DataUri,
        Field(
            description=(
                "URI of the file: s3://BUCKET/KEY, file:///PATH, hf://datasets/ORG/NAME@REVISION/FILE (a data set on a "
                "hub, read with the token of `model.secretRef`) or sample://formulas/... It may also name a folder or "
                "a pattern, such as s3://BUCKET/rows/ or s3://BUCKET/rows/train-*.parquet, and then means all data "
                "files in the order of their names. A file is JSONL (one JSON object per line, in UTF-8), CSV, TSV, "
                "Parquet, or chat JSONL "
                '({"messages": [{"role": "system"|"user"|"assistant", "content": ...}]}).'
            )
        ),
    ]
    format: Annotated[
        DataFormat,
        Field(
            description=(
                "Format of the file: JSONL, Parquet, CSV, TSV, or Chat (JSONL or Parquet). Auto reads a file named "
                ".parquet, .csv or .tsv as its name says, and every other file as JSONL. Auto and Parquet read a file "
                "with the column `messages` or `conversations` (ShareGPT) as Chat, unless it has the column "
                "`columns.query`, or `columns` names another query or answer than the default. JSONL, CSV and TSV may "
                "be compressed with gzip or Zstandard."
            )
        ),
    ] = DataFormat.AUTO
    split: Annotated[
        str | None,
        StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128),
        Field(
            description=(
                "Split of a data set on a hub, such as train: the files whose name or folder begins with this word. If "
                "it is left out, `uri` names files of one split."
            )
        ),
    ] = None
    columns: Annotated[
        Columns, Field(description="Names of the file's columns. A chat file does not use `query` and `answer`.")
    ] = Columns()
    limit: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000_000,
            description="Number of rows to read from the start of the files. If it is left out, all rows are read.",
        ),
    ] = None


class Generate(ApiModel):
    """The queries that the base model writes, where there is no log of queries or only a short one."""

    count: Annotated[int, Field(ge=1, le=1_000_000, description="Number of queries to write.")] = 1000
    temperature: Annotated[
        Number,
        Field(
            ge=0.01,
            le=5,
            description="Temperature at which queries are drawn. At 1, tokens have the base model's probabilities.",
        ),
    ] = 1.0
    max_new_tokens: Annotated[
        int, Field(ge=1, le=4096, description="Maximum length of a query, in tokens. Longer queries are left out.")
    ] = 64
    multiline: Annotated[
        bool, Field(description="Whether a query may have several lines. If not, a query ends at a line break.")
    ] = False
    min_valid: Annotated[
        Number,
        Field(
            ge=0,
            le=1,
            description=(
                "Smallest share of the drawn queries that must be valid and distinct. With a smaller share, the job is "
                "refused."
            ),
        ),
    ] = 0.5


class DataSpec(ApiModel):
    """The training rows, the queries without answers, and the held-out rows."""

    train: Annotated[
        DataSource | None,
        Field(
            description=(
                "File with the training rows. The few-shot examples are retrieved from them as well. It may be left "
                "out if `queries` or `generate` is set."
            )
        ),
    ] = None
    queries: Annotated[
        DataSource | None,
        Field(
            description=(
                "File with queries without answers, such as a log of queries. A teacher answers them, by default the "
                "base model with the full prompt, and the trained model learns from these answers (see "
                "training.teacher). Answers in the file are not read. Of several equal queries, only the first is "
                "used. If the field is left out, the job learns only from `train`."
            )
        ),
    ] = None
    generate: Annotated[
        Generate | None,
        Field(
            description=(
                "Queries that the base model writes before the training, by continuing the full prompt at the place of "
                "the query. They are used like `queries`, and in addition to these. If the field is left out, no "
                "queries are written."
            )
        ),
    ] = None
    eval: Annotated[DataSource, Field(description="File with the held-out rows, which every arm answers.")]
    on_leak: Annotated[
        OnProblem,
        Field(
            description=(
                "Action on a row of `train` or `queries` whose query also occurs in `eval`. Queries are compared "
                "without regard to case, white space and punctuation at the end. Error refuses the job and names the "
                "rows. Drop leaves the row out and counts it."
            )
        ),
    ] = OnProblem.ERROR
    on_too_long: Annotated[
        OnProblem,
        Field(
            description=(
                "Action on a row that does not fit: a training row whose longest prompt plus answer exceeds "
                "training.maxTokens, or a query or held-out row whose prompt leaves no room for "
                "evaluation.maxNewTokens. Error "
                "refuses the job and names the row. Drop leaves the row out of the run and counts it. Nothing is ever "
                "truncated."
            )
        ),
    ] = OnProblem.ERROR

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="train",
            message=(
                "is required unless data.queries or data.generate is set; name a file of rows or of queries to learn "
                "from"
            ),
            cel="has(self.train) || has(self.queries) || has(self.generate)",
            holds=lambda self: self.train is not None or self.has_queries,
        ),
    )

    @property
    def has_queries(self) -> bool:
        """Whether there are queries without answers, from a file or written by the base model."""
        return self.queries is not None or self.generate is not None
