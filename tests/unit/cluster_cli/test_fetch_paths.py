"""Names of files in a bucket, which whoever may write there chooses, lead nowhere outside the target folder."""

from pathlib import Path

import pytest
from promptintern.cluster import fetch
from promptintern.errors import RunFailed
from promptintern.storage.store import open_store


@pytest.mark.parametrize("name", ["../../evil/x", "a/../../../evil/x", "/evil/x", "a//x", "..\\evil"])
def test_a_name_that_leads_elsewhere_is_refused_before_any_folder_is_made(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store((tmp_path / "bucket").as_uri())
    monkeypatch.setattr(store, "list", lambda *_: [name])
    target = tmp_path / "local" / "report"
    before = list(tmp_path.rglob("*"))
    with pytest.raises(RunFailed, match="not a relative path"):
        fetch._fetch_report(store, target)
    assert list(tmp_path.rglob("*")) == before
