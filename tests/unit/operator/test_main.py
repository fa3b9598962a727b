"""The operator's log: a cluster without Kueue is healthy, and a cluster without another watched kind is not."""

import logging

import pytest
from kopf._cogs.structs.references import Selector
from kopf._core.reactor.observation import _disable_mismatched_selectors
from promptintern_operator.main import is_worth_logging

KUEUE = Selector("kueue.x-k8s.io", "v1beta1", "workloads")
RAY = Selector("ray.io", "v1", "rayjobs")


@pytest.mark.parametrize(
    ("unserved", "logged"), [({KUEUE}, False), ({RAY}, True), ({KUEUE, RAY}, True)], ids=["Kueue", "KubeRay", "both"]
)
def test_kopf_warns_only_of_kinds_that_jobs_need(
    unserved: set[Selector], logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _disable_mismatched_selectors(resources=set(), selectors=frozenset(unserved))
    (record,) = caplog.records
    assert is_worth_logging(record) is logged


def test_other_warnings_about_kueue_are_logged() -> None:
    record = logging.LogRecord("kopf", logging.WARNING, "", 0, "cannot watch workloads.kueue.x-k8s.io", (), None)
    assert is_worth_logging(record)
