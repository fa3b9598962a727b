"""Warnings of the check that concern a job's settings alone."""

from pathlib import Path

import pytest
from promptintern.commands.validate import check_job
from promptintern_api import parse_job

from tests.tiny import tiny_job
from tests.unit.api.documents import small_job, with_changes

SERVED = "vLLM serves adapters of a rank up to 512"


@pytest.mark.parametrize(("rank", "is_warned"), [(8, False), (512, False), (513, True)])
def test_a_rank_that_no_server_takes_is_told(rank: int, is_warned: bool) -> None:
    document = with_changes(small_job(), {"spec.training.lora.r": rank})
    findings = check_job(parse_job(document))
    assert any(SERVED in warning for warning in findings.warnings) is is_warned


def test_a_rank_that_vllm_cannot_answer_with_is_a_problem_of_the_engine(tmp_path: Path) -> None:
    document = tiny_job(tmp_path)
    document["spec"]["training"]["lora"]["r"] = 513
    document["spec"]["evaluation"]["engine"] = "VLLM"
    findings = check_job(parse_job(document))
    assert [problem.where for problem in findings.problems] == ["spec.evaluation.engine"]
    assert not any(SERVED in warning for warning in findings.warnings)
