"""Tests that hold servers until they are interrupted. Only `test_interrupted` runs this file."""

import os
import time
from pathlib import Path

import pytest

from tests.cluster import fixtures
from tests.cluster.api_server import ApiServer
from tests.cluster.s3 import S3Server

api_server = fixtures.api_server

FOLDER = "PROMPTINTERN_HOLDING_FOLDER"
"""Names the folder in which each test leaves a file, named by its process, once its servers answer."""


@pytest.mark.parametrize("number", range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
def test_hold(number: int, api_server: ApiServer, running_s3: S3Server) -> None:
    (Path(os.environ[FOLDER]) / f"{os.getpid()}.ready").touch()
    time.sleep(600)
