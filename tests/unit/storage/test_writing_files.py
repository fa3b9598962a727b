"""Errors of writing local files are reported as what they are, whichever library writes the files."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from promptintern.errors import RunFailed, UserError
from promptintern.storage.local import writing_files
from safetensors import SafetensorError

FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), FULL], ids=["system", "safetensors"])
def test_a_full_disk(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(RunFailed, match=r"there is no space left .* free some space; run the same command again"),
        writing_files(tmp_path),
    ):
        raise error


@pytest.mark.parametrize(("number", "kind"), [(5, RunFailed), (13, UserError), (30, UserError), (122, RunFailed)])
def test_other_errors(tmp_path: Path, number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=str(tmp_path)), writing_files(tmp_path):
        raise SafetensorError(f"Error while serializing: I/O error: something (os error {number})")


def test_an_error_that_is_not_the_systems_stays(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match="invalid"), writing_files(tmp_path):
        raise SafetensorError("invalid header")


SHARD = """
import sys, numpy
from pathlib import Path
from safetensors.numpy import save_file
from promptintern.errors import RunFailed
from promptintern.storage.local import writing_files
try:
    with writing_files(Path(sys.argv[1])):
        save_file({"ids": numpy.zeros(100_000)}, Path(sys.argv[1], "x.safetensors"))
except RunFailed as error:
    print(error)
"""


def test_a_real_write_that_fails(tmp_path: Path) -> None:
    """The limit on the size of files fails in the same place as a full disk."""
    output = subprocess.run(
        [sys.executable, "-c", SHARD, str(tmp_path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        check=True,
    )
    assert output.stdout.startswith(f"{tmp_path}: write failed: ")
