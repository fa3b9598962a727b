"""A few hundred random cases; `make fuzz` runs ten thousand."""

from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.errors import NoCluster
from tests.integration.operator.fuzz.__main__ import prepared
from tests.integration.operator.fuzz.batch import REFUSED


def test_hostile_specs_and_statuses_are_refused_or_handled(tmp_path: Path) -> None:
    try:
        with prepared(tmp_path, period=1.0) as batch:
            result = batch.run(seed=1, batch=0, numbers=range(200), rate=25.0, control=0.0)
    except NoCluster as missing:
        pytest.skip(str(missing))
    assert result.problems == []
    outcomes = sum((Counter(counts) for counts in result.outcomes.values()), Counter[str]())
    assert outcomes.total() == 200
    assert outcomes[REFUSED] < 150, "many cases reach the operator"
    assert result.delays["hostile"]["ray_job"], "the jobs of the other tenant were started meanwhile"
