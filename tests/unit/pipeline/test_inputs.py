"""The warnings about a job that loading its data gives."""

import pytest
from promptintern.errors import Problem, UserError
from promptintern.pipeline import inputs
from promptintern.pipeline.inputs import load_data
from promptintern.rows.load import LoadedRows
from promptintern.rows.types import Row
from promptintern.sample.job import build_job
from promptintern_api import parse_job
from promptintern_api.data import DataSource


@pytest.mark.parametrize(
    ("examples", "warned"), [("", False), ("Question: total of claims\n=SUM\n\nQuestion: sum of days\n=SUM\n\n", True)]
)
def test_a_protected_text_that_is_kept_at_several_places_gives_a_warning(examples: str, warned: bool) -> None:
    job = build_job(world=4, rows=4)
    prompt = job["spec"]["prompt"]
    prompt["template"] = examples + prompt["template"]
    warnings = load_data(parse_job(job)).warnings
    expected = "spec.prompt.protect[0] ('\\n=') occurs 3 times in the template and is kept at each of them"
    assert any(expected in warning for warning in warnings) == warned
    assert any("protect" in warning for warning in warnings) == warned


@pytest.mark.parametrize(("splits", "is_refused"), [(("train", "test"), False), (("train", "train"), True)])
def test_only_the_same_split_of_a_data_set_is_the_same_file(
    splits: tuple[str, str], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str | None] = []

    def load(source: DataSource, **_: object) -> LoadedRows[Row]:
        read.append(source.split)
        return LoadedRows(rows=[], sha256="", problems=[Problem(where="here", message="enough")])

    monkeypatch.setattr(inputs, "load_rows", load)
    job = build_job(world=4, rows=4)
    for name, split in zip(("train", "eval"), splits, strict=True):
        job["spec"]["data"][name] = {"uri": "hf://datasets/acme/rows", "split": split}
    with pytest.raises(UserError) as raised:
        load_data(parse_job(job))
    assert ("is the training file" in str(raised.value)) is is_refused
    assert read == ([] if is_refused else ["train", "test"])
