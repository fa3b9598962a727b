"""Reading a job: files, overrides, and which changes start a new run."""

import hashlib
from pathlib import Path
from typing import get_args

import pytest
import yaml
from promptintern.errors import UserError
from promptintern.job import _URI_FIELDS, load_job, run_folder, run_id
from promptintern.uris import display_uri
from promptintern_api.job import PromptInternJobSpec
from pydantic import BaseModel

JOB = {
    "apiVersion": "promptintern.dev/v1alpha1",
    "kind": "PromptInternJob",
    "metadata": {"name": "one"},
    "spec": {
        "model": {"uri": "sample://formulas"},
        "data": {"train": {"uri": "train.jsonl"}, "eval": {"uri": "file:///data/eval.jsonl"}},
        "prompt": {"template": "Answer.\n{examples}{query}"},
    },
}


def write(folder: Path, document: object = JOB, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document))
    return path


def test_plain_paths_are_relative_to_the_job_file(tmp_path: Path) -> None:
    job = load_job(write(tmp_path))
    assert job.spec.data.train.uri == f"file://{tmp_path}/train.jsonl"
    assert job.spec.data.eval.uri == "file:///data/eval.jsonl"


def uri_fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Return the paths of all fields of ``model`` that hold a URI, by their names in a job."""
    found = set()
    for field in model.model_fields.values():
        name = str(field.alias)
        if name in ("uri", "modelUri"):
            found.add((*path, name))
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= uri_fields(part, (*path, name))
    return found


def test_every_field_that_holds_a_uri_may_hold_a_plain_path() -> None:
    assert uri_fields(PromptInternJobSpec) == set(_URI_FIELDS)


def test_plain_paths_in_overrides_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(write(tmp_path / "..", name="other.yaml"), ["data.train.uri=rows/a.jsonl"])
    assert job.spec.data.train.uri == f"file://{tmp_path}/rows/a.jsonl"


def test_overrides_are_yaml_and_reach_fields_that_the_file_lacks(tmp_path: Path) -> None:
    job = load_job(
        write(tmp_path),
        ["training.seed=7", "spec.schedule.shots=0", "metadata.name=two", "evaluation.metrics=[BLEU]"],
    )
    assert job.spec.training.seed == 7
    assert job.spec.schedule.shots == 0
    assert job.metadata.name == "two"
    assert [str(m) for m in job.spec.evaluation.metrics] == ["BLEU"]


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["training.seed"], "--set training.seed"),
        (["=3"], "--set =3"),
        (["model.uri.deeper=1"], "--set model.uri.deeper=1"),
        (["training.sed=1"], "spec.training.sed"),
        (["training.seed=[1"], "--set training.seed=[1"),
    ],
)
def test_bad_overrides_are_named(tmp_path: Path, overrides: list[str], where: str) -> None:
    with pytest.raises(UserError) as caught:
        load_job(write(tmp_path), overrides)
    assert where in [problem.where for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "is empty; it must hold exactly one job"),
        (b"- 1\n", "is not a mapping"),
        (b"a: 1\n---\nb: 2\n", "holds 2 YAML documents"),
        (b"a: [1\n", "not valid YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_job(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=fragment):
        load_job(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml.*No such file"):
        load_job(tmp_path / "none.yaml")


def test_a_run_is_named_by_what_it_computes(tmp_path: Path) -> None:
    path = write(tmp_path)
    same = [
        load_job(path),
        load_job(path, ["compute.workers=2", "retries.application=4", "checkpoint.everySeconds=9"]),
    ]
    assert run_id(same[0]) == run_id(same[1])
    assert run_id(load_job(path, ["training.seed=1"])) != run_id(same[0])
    assert run_folder(same[0]) == f"default/one-{run_id(same[0])}"


def test_a_new_version_continues_the_runs_of_old_jobs() -> None:
    """A new optional field must not change the id, or a run that has begun would start again."""
    examples = Path(__file__).parents[2] / "examples"
    ids = {name: run_id(load_job(examples / f"{name}.yaml")) for name in ("quickstart", "few-rows")}
    assert ids == {"quickstart": "8a768f91", "few-rows": "deeb8fbb"}


def test_a_cluster_names_a_run_by_its_uid(tmp_path: Path) -> None:
    job = load_job(write(tmp_path), ["metadata.uid=0a1b2c3d-4e5f-6789-abcd-ef0123456789"])
    assert run_id(job) == "0a1b2c3d"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("spec: {}\nkind: a\nspec: {}\n", r"job\.yaml:3: is not valid YAML: the key 'spec' appears twice"),
        ("[" * 3000, "nested too deeply"),
        ("a: 0b_\n", "not valid YAML"),
    ],
)
def test_yaml_that_says_something_else_than_it_seems(tmp_path: Path, text: str, fragment: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=fragment):
        load_job(path)


def test_a_date_is_text_as_for_kubectl(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.seed.*'2024-13-45'"):
        load_job(write(tmp_path), ["training.seed=2024-13-45"])


def test_a_path_with_signs_that_mean_something_in_uris(tmp_path: Path) -> None:
    job = load_job(write(tmp_path), [f"data.train.uri={tmp_path}/100%41 b#c.jsonl"])
    assert display_uri(job.spec.data.train.uri) == f"{tmp_path}/100%41 b#c.jsonl"


def test_what_only_the_report_shows_continues_the_same_run(tmp_path: Path) -> None:
    path = write(tmp_path)
    priced = ["evaluation.prices={inputPerMillion: 1, outputPerMillion: 2}"]
    assert run_id(load_job(path, priced)) == run_id(load_job(path))
    assert run_id(load_job(path, ["evaluation.maxNewTokens=3"])) != run_id(load_job(path))


def test_a_file_with_another_digest_than_the_operator_wrote_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_job(path, sha256=digest) == load_job(path)
    path.write_text(path.read_text() + "\n# changed\n")
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_job(path, sha256=digest)
