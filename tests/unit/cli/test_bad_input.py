"""Bad jobs and bad data: one clear message each, exit 2 (or 1), never a traceback."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli import promptintern, write_job
from tests.tiny import tiny_job, write_rows, write_tiny_model

Job = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One mistake, and what its message must say."""

    name: str
    change: Callable[[Job, Path], None]
    says: tuple[str, ...]
    code: int = 2


def at(path: str, value: Any) -> Callable[[Job, Path], None]:
    """Return a change that sets a field of the document."""

    def change(job: Job, _folder: Path) -> None:
        *parents, leaf = path.split(".")
        node = job
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = value

    return change


def without(path: str) -> Callable[[Job, Path], None]:
    """Return a change that removes a field of the document."""

    def change(job: Job, _folder: Path) -> None:
        *parents, leaf = path.split(".")
        node = job
        for key in parents:
            node = node[key]
        del node[leaf]

    return change


def train(content: bytes) -> Callable[[Job, Path], None]:
    """Return a change that replaces the training file."""
    return lambda _job, folder: (folder / "train.jsonl").write_bytes(content) and None


def lines(*rows: Any) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


GOOD = {"query": "a question", "answer": "an answer"}


def _model(edit: Callable[[Path], object]) -> Callable[[Job, Path], None]:
    """Return a change that gives the job its own, edited model folder."""

    def change(job: Job, folder: Path) -> None:
        model = write_tiny_model(folder / "broken-model")
        edit(model)
        job["spec"]["model"]["uri"] = f"file://{model}"

    return change


def _pickled(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _too_long(job: Job, folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(lines(GOOD, {"query": "x " * 600, "answer": "y"}, GOOD | {"query": "b"}))
    job["spec"]["schedule"] = {"stages": 2, "shots": 0}  # as an example, the row would make other rows too long as well


def _parquet(job: Job, folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1 but not really")
    job["spec"]["data"]["train"]["uri"] = f"file://{folder}/train.parquet"


def _leak(_job: Job, folder: Path) -> None:
    query = json.loads((folder / "train.jsonl").read_text().splitlines()[2])["query"]
    (folder / "eval.jsonl").write_bytes(lines(GOOD, {"query": f"  {query.upper()}. ", "answer": "x"}))


def _precomputed(job: Job, _folder: Path) -> None:
    job["spec"]["prompt"]["compressor"] = {
        "kind": "Precomputed",
        "templates": [{"rate": 0.0, "template": "{query}\nCode:"}],
    }


def _empty_folder(job: Job, folder: Path) -> None:
    (folder / "empty").mkdir()
    job["spec"]["data"]["train"]["uri"] = f"file://{folder}/empty"


def _table(job: Job, folder: Path) -> None:
    (folder / "train.csv").write_text("query,answer\na,b\nc,d,e\n")
    job["spec"]["data"]["train"]["uri"] = f"file://{folder}/train.csv"


def _same_file(job: Job, _folder: Path) -> None:
    job["spec"]["data"]["eval"] = job["spec"]["data"]["train"]


def _queries(job: Job, folder: Path, *rows: object) -> None:
    (folder / "queries.jsonl").write_bytes(lines(*rows))
    job["spec"]["data"]["queries"] = {"uri": f"file://{folder}/queries.jsonl"}


def _held_out_queries(job: Job, _folder: Path) -> None:
    job["spec"]["data"]["queries"] = job["spec"]["data"]["eval"]


def _known_queries(job: Job, folder: Path) -> None:
    query = json.loads((folder / "train.jsonl").read_text().splitlines()[2])["query"]
    _queries(job, folder, {"query": query})


def _leaked_query(job: Job, folder: Path) -> None:
    query = json.loads((folder / "eval.jsonl").read_text().splitlines()[0])["query"]
    _queries(job, folder, {"query": "new"}, {"query": query.upper()})


CASES = [
    Bad(
        name="the held-out rows as queries",
        change=_held_out_queries,
        says=("spec.data.eval.uri", "is the file of the queries", "onLeak: Drop"),
    ),
    Bad(
        name="queries that are all known",
        change=_known_queries,
        says=("spec.data.queries", "has no rows left"),
    ),
    Bad(
        name="a query that is held out",
        change=_leaked_query,
        says=("eval.jsonl:1", "has the same query as query", "queries.jsonl:2"),
    ),
    Bad(
        name="a query without text",
        change=lambda job, folder: _queries(job, folder, {"query": "new"}, {"answer": "x"}),
        says=("queries.jsonl:2", "has no column 'query'"),
    ),
    Bad(
        name="a query that leaves no room for an answer",
        change=lambda job, folder: _queries(job, folder, {"query": "x " * 600}),
        says=("queries.jsonl:1", "tokens of prompt, the most that leaves room for maxNewTokens"),
    ),
    Bad(
        name="a table of text", change=_table, says=("train.csv:3", "has 3 fields, and the first line names 2 columns")
    ),
    Bad(name="the same file twice", change=_same_file, says=("spec.data.eval.uri", "is the training file")),
    Bad(
        name="unknown scheme",
        change=at("spec.data.train.uri", "http://host/rows.jsonl"),
        says=("spec.data.train.uri", "must start with one of hf://, s3://, file://, sample://"),
    ),
    Bad(
        name="unknown sample",
        change=at("spec.data.train.uri", "sample://formulas/trian?world=1"),
        says=("spec.data.train.uri", "sample://formulas/train?world=W&rows=N"),
    ),
    Bad(name="uid that is a path", change=at("metadata.uid", "../../uid"), says=("metadata.uid", "does not match")),
    # the document
    Bad(
        name="api version",
        change=at("apiVersion", "promptintern.dev/v2"),
        says=("apiVersion", "promptintern.dev/v1alpha1"),
    ),
    Bad(name="kind", change=at("kind", "Job"), says=("kind", "PromptInternJob")),
    Bad(name="no name", change=without("metadata.name"), says=("metadata.name", "is required")),
    Bad(name="long name", change=at("metadata.name", "a" * 41), says=("metadata.name", "40")),
    Bad(name="upper case name", change=at("metadata.name", "Tiny"), says=("metadata.name", "does not match")),
    Bad(name="unknown field", change=at("spec.trainin", {}), says=("spec.trainin", "did you mean training")),
    Bad(
        name="unknown nested field",
        change=at("spec.training.lora.rank", 4),
        says=("spec.training.lora.rank", "not a known field"),
    ),
    Bad(name="wrong type", change=at("spec.schedule.stages", "four"), says=("spec.schedule.stages", "'four'")),
    Bad(name="no data", change=without("spec.data"), says=("spec.data", "is required")),
    Bad(
        name="no query placeholder",
        change=at("spec.prompt.template", "{examples}\nCode:"),
        says=("{query} exactly once",),
    ),
    Bad(
        name="two query placeholders",
        change=at("spec.prompt.template", "{query}{query}{examples}\nCode:"),
        says=("exactly once",),
    ),
    Bad(
        name="answer in template",
        change=at("spec.prompt.template", "{examples}{query}{answer}\nCode:"),
        says=("{answer}",),
    ),
    Bad(
        name="no examples placeholder",
        change=at("spec.prompt.template", "{query}\nCode:"),
        says=("spec.prompt.template", "{examples}"),
    ),
    Bad(
        name="example without answer",
        change=at("spec.prompt.exampleTemplate", "{query}"),
        says=("exampleTemplate", "{answer}"),
    ),
    Bad(
        name="protect elsewhere",
        change=at("spec.prompt.protect", ["nowhere"]),
        says=("spec.prompt.protect", "literally"),
    ),
    Bad(
        name="uri scheme",
        change=at("spec.data.train.uri", "gs://bucket/x"),
        says=("spec.data.train.uri", "gs://bucket/x"),
    ),
    Bad(name="final rate 1", change=at("spec.schedule.finalRate", 1), says=("spec.schedule.finalRate", "less than 1")),
    Bad(
        name="rising explicit stages",
        change=at(
            "spec.schedule", {"explicit": [{"templateRate": 0.2, "shots": 0}, {"templateRate": 0.5, "shots": 0}]}
        ),
        says=("spec.schedule.explicit", "must not raise"),
    ),
    Bad(
        name="explicit beside curve",
        change=at("spec.schedule", {"stages": 2, "explicit": [{"templateRate": 0, "shots": 0}]}),
        says=("spec.schedule.explicit", "cannot be combined with"),
    ),
    Bad(
        name="explicit ends with examples",
        change=at("spec.schedule", {"explicit": [{"templateRate": 0, "shots": 1}]}),
        says=("spec.schedule.explicit", "shots: 0"),
    ),
    Bad(
        name="learning rate 0",
        change=at("spec.training.learningRate", 0),
        says=("spec.training.learningRate", "greater than 0"),
    ),
    Bad(
        name="pack over batch", change=at("spec.training.tokensPerPack", 2048), says=("tokensPerPack", "tokensPerBatch")
    ),
    Bad(
        name="no QueryOnly arm",
        change=at("spec.evaluation.arms", ["FullPrompt"]),
        says=("spec.evaluation.arms", "QueryOnly"),
    ),
    Bad(
        name="metric twice",
        change=at("spec.evaluation.metrics", ["BLEU", "BLEU"]),
        says=("spec.evaluation.metrics", "repeat"),
    ),
    Bad(
        name="unknown metric",
        change=at("spec.evaluation.metrics", ["Accuracy"]),
        says=("spec.evaluation.metrics", "BLEU"),
    ),
    Bad(
        name="compressor without model",
        change=at("spec.prompt.compressor", {"kind": "LLMLingua2"}),
        says=("spec.prompt.compressor.modelUri", "LLMLingua2"),
    ),
    Bad(name="precomputed rate missing", change=_precomputed, says=("spec.prompt.compressor.templates", "0.5")),
    Bad(
        name="GPU on CPU",
        change=at("spec.compute", {"device": "CPU", "gpusPerWorker": 1}),
        says=("spec.compute.gpusPerWorker",),
    ),
    Bad(
        name="GPU that is not there", change=at("spec.compute", {"device": "CUDA"}), says=("GPU", "device: CPU"), code=1
    ),
    # data
    Bad(
        name="no file",
        change=at("spec.data.train.uri", "file:///no/such.jsonl"),
        says=("spec.data.train", "/no/such.jsonl"),
    ),
    Bad(name="empty folder", change=_empty_folder, says=("spec.data.train.uri", "names no data file")),
    Bad(name="empty file", change=train(b""), says=("spec.data.train", "no rows")),
    Bad(name="bad JSON", change=train(lines(GOOD) + b'{"query": "x", \n'), says=("train.jsonl:2", "JSON")),
    Bad(name="not an object", change=train(lines(GOOD, ["x"])), says=("train.jsonl:2", "object")),
    Bad(
        name="missing column",
        change=train(lines(GOOD, {"question": "x", "answer": "y"})),
        says=("train.jsonl:2", "query"),
    ),
    Bad(
        name="number as answer",
        change=train(lines(GOOD, {"query": "x", "answer": 3})),
        says=("train.jsonl:2", "answer"),
    ),
    Bad(
        name="empty answer",
        change=train(lines(GOOD, {"query": "x", "answer": ""})),
        says=("train.jsonl:2", "answer", "empty"),
    ),
    Bad(
        name="blank query",
        change=train(lines(GOOD, {"query": " \t", "answer": "y"})),
        says=("train.jsonl:2", "query", "blank"),
    ),
    Bad(
        name="bad UTF-8",
        change=train(lines(GOOD) + b'{"query": "\xff", "answer": "y"}\n'),
        says=("train.jsonl:2", "UTF-8"),
    ),
    Bad(
        name="two assistant turns",
        change=train(
            lines(
                {
                    "messages": [
                        {"role": "user", "content": "a"},
                        {"role": "assistant", "content": "b"},
                        {"role": "user", "content": "c"},
                        {"role": "assistant", "content": "d"},
                    ]
                }
            )
        ),
        says=("train.jsonl:1",),
    ),
    Bad(name="not Parquet", change=_parquet, says=("train.parquet", "Parquet")),
    Bad(name="leaked row", change=_leak, says=("eval.jsonl:2", "train.jsonl:3", "onLeak")),
    Bad(
        name="more shots than rows",
        change=at("spec.schedule", {"stages": 2, "shots": 12}),
        says=("spec.schedule.shots", "12"),
    ),
    Bad(
        name="row too long",
        change=_too_long,
        says=("train.jsonl:2", "maxTokens"),
    ),
    Bad(
        name="beyond the context", change=at("spec.training.maxTokens", 4096), says=("spec.training.maxTokens", "1024")
    ),
    Bad(
        name="no room for answers",
        change=at("spec.evaluation.maxNewTokens", 1024),
        says=("spec.evaluation.maxNewTokens",),
    ),
    # the model
    Bad(name="no model folder", change=at("spec.model.uri", "file:///no/model"), says=("spec.model.uri", "/no/model")),
    Bad(
        name="no config", change=_model(lambda m: (m / "config.json").unlink()), says=("spec.model.uri", "config.json")
    ),
    Bad(
        name="broken config",
        change=_model(lambda m: (m / "config.json").write_text("{")),
        says=("spec.model.uri", "config.json"),
    ),
    Bad(name="pickled weights", change=_model(_pickled), says=("spec.model.uri", "pickled", "safetensors")),
    Bad(
        name="broken weights",
        change=_model(lambda m: (m / "model.safetensors").write_bytes(b"\0" * 64)),
        says=("spec.model.uri",),
    ),
    Bad(
        name="no tokenizer",
        change=_model(lambda m: (m / "tokenizer.json").unlink()),
        says=("spec.model.uri", "tokenizer"),
    ),
    Bad(
        name="unknown sample",
        change=at("spec.model.uri", "sample://haiku"),
        says=("sample://haiku", "sample://formulas"),
    ),
    Bad(name="no hub", change=at("spec.model.uri", "hf://nobody/nothing"), says=("spec.model.uri", "nobody/nothing")),
    Bad(
        name="no such layer",
        change=at("spec.training.lora.targetModules", "wq"),
        says=("spec.training.lora.targetModules",),
    ),
    Bad(name="chat without template", change=at("spec.prompt.chat", True), says=("spec.prompt.chat", "chat template")),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_a_mistake_gives_a_clear_message(
    bad: Bad, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").symlink_to(model)
    job = tiny_job(tmp_path)
    bad.change(job, tmp_path)
    ran = promptintern(
        "run", write_job(tmp_path, job), "--workdir", tmp_path / "runs", capsys=capsys, monkeypatch=monkeypatch
    )
    assert ran.code == bad.code, ran.err
    assert "Traceback" not in ran.err + ran.out
    assert "bug in promptintern" not in ran.err
    for fragment in bad.says:
        assert fragment in ran.err
    assert sum(line.startswith(("error:", "failed:")) for line in ran.err.splitlines()) == 1


def test_twenty_of_many_rows_that_are_too_long_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny_job(tmp_path)
    rows = [{"query": f"{number} " + "x " * 600, "answer": "y"} for number in range(25)]
    (tmp_path / "train.jsonl").write_bytes(lines(*rows))
    job["spec"]["schedule"] = {"stages": 2, "shots": 0}
    ran = promptintern("validate", write_job(tmp_path, job), capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == 2
    assert "train.jsonl:20" in ran.err and "train.jsonl:21" not in ran.err
    assert "and 5 more such problems" in ran.err


def test_all_problems_are_listed_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny_job(tmp_path)
    (tmp_path / "train.jsonl").write_bytes(lines(GOOD, {"query": "x"}, {"query": "", "answer": "y"}))
    job["spec"]["model"]["uri"] = "file:///no/model"
    ran = promptintern("validate", write_job(tmp_path, job), capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == 2
    for fragment in ("train.jsonl:2", "train.jsonl:3", "spec.model.uri"):
        assert fragment in ran.err


def test_a_good_job_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "train.jsonl", 12)
    ran = promptintern("validate", write_job(tmp_path, tiny_job(tmp_path)), capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == 0, ran.err
    assert "the job tiny is valid" in ran.out
    assert "12 training rows, 4 held-out rows" in ran.out


@pytest.mark.parametrize("command", ["run", "validate", "prepare", "predict", "report", "export"])
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = promptintern(command, "--help", capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == 0
    assert f"Example: promptintern {command}" in " ".join(ran.out.split())


def test_predict_without_an_adapter_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = promptintern("predict", tmp_path, "a query", capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == 2
    assert "adapter/manifest.json" in ran.err


@pytest.mark.parametrize("arguments", [("report",), ("predict", "a query"), ("export", "--merged", "merged")])
def test_a_run_of_another_version_is_refused(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of such a run are whole, so nobody may be told that they are damaged."""
    for name in ("job.json", "adapter/manifest.json", "report/facts.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"schemaVersion": "1.0", "files": {}}))
    command, *others = arguments
    ran = promptintern(command, tmp_path, *others, capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == 2
    assert "was written by another version of promptintern (run format 1.0" in " ".join(ran.err.split())
    assert "damaged" not in ran.err


def test_export_into_a_full_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "something").write_text("x")
    ran = promptintern("export", tmp_path, "--merged", tmp_path, capsys=capsys, monkeypatch=monkeypatch)
    assert ran.code == 2
    assert "already exists" in ran.err
