"""docs/monitoring.md documents every metric, with its type, its labels and the values of the bounded labels."""

import re
from pathlib import Path

from prometheus_client import REGISTRY
from promptintern_api.status import Outcome
from promptintern_operator import job_metrics
from promptintern_operator.reasons import DENIAL_REASONS, ENDING_REASONS, FAILURE_REASONS, OTHER_REASON

from tests.unit.operator.test_docs_conditions import PAGE as CONDITIONS
from tests.unit.operator.test_docs_conditions import section

PAGE = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(promptintern_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
COLLECTORS = {
    collector for name, collector in REGISTRY._names_to_collectors.items() if name.startswith("promptintern_")
}
FAILED = {Outcome.USER, Outcome.APPLICATION, Outcome.INFRASTRUCTURE, Outcome.PREEMPTION, "either"}


def described() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the type and the labels of each metric in the documentation."""
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(PAGE)}


def registered() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the type and the labels of each metric in the registry, by the name that Prometheus shows."""
    return {
        f"{each._name}_total" if each._type == "counter" else each._name: (each._type, tuple(each._labelnames))
        for each in COLLECTORS
    }


def names(rows: str) -> set[str]:
    """Return the reasons in the first column of a table."""
    return {name for cell in re.findall(r"^\|([^|]*)\|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    assert described() == registered()


def test_the_expressions_to_watch_use_metrics_and_labels_that_exist() -> None:
    expressions = re.findall(r"^\| `([^`]*promptintern_[^`]*[<>][^`]*)` \|", PAGE, re.MULTILINE)
    assert len(expressions) >= 6
    for expression in expressions:
        (name,) = re.findall(r"promptintern_\w+", expression)
        _, labels = registered()[name]
        used = re.findall(r"(\w+)=", expression) + [
            label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")
        ]
        assert set(used) <= set(labels), expression


def test_the_bound_of_namespaces_is_documented() -> None:
    text = " ".join(PAGE.split())
    assert f"At most {job_metrics.MOST_NAMESPACES} namespaces have series" in text
    assert f"as namespace `{job_metrics.OTHER_NAMESPACES}`" in text
    assert job_metrics.FORGET_SECONDS == 3600 and "no job for an hour" in text


def test_the_reasons_of_failed_attempts_are_the_documented_ones() -> None:
    rows = [line.split("|") for line in section("Training").splitlines() if line.startswith("| ")]
    failing = "".join(f"|{cells[1]}|\n" for cells in rows if set(re.findall(r"\w+", cells[4])) & FAILED)
    stuck, denied = names(section("Stuck pods")), names(section("Denied")) - {"NameTaken", "EarlierJobDeleting"}
    with_job = {"DeadlineExceeded"}  # ends the attempt together with its job
    assert set(FAILURE_REASONS) == names(failing) | stuck | denied - {"DeleteFailed"} | with_job | {OTHER_REASON}


def test_the_reasons_of_jobs_that_ended_are_documented() -> None:
    documented = names(section("Succeeded and Failed")) - {"Retried"}
    assert documented <= set(ENDING_REASONS)
    assert set(ENDING_REASONS) - {OTHER_REASON} <= names(CONDITIONS)


def test_the_reasons_of_denials_are_the_documented_ones() -> None:
    assert set(DENIAL_REASONS) == names(section("Denied")) | {OTHER_REASON}
