"""Reading ``job.json``, the file with the job and the digests of its data."""

from typing import Any

from promptintern_api.contract import JOB_FILE

from promptintern.storage.run import RunStore
from promptintern.storage.run_format import check_format
from promptintern.uris import display_uri


def read_job(run: RunStore) -> dict[str, Any] | None:
    """Return the content of ``job.json`` of ``run``, or None if the file does not exist.

    Raises:
        UserError: if another version of this program, with another run format, wrote the file.
        RunFailed: if the file is not a JSON object.
    """
    document = run.read_json(JOB_FILE)
    check_format(document or {}, f"{display_uri(run.store.uri)}/{JOB_FILE}")
    return document
