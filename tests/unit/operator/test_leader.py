"""Who may act: the leader, for as long as nobody else can have followed."""

import asyncio

import pytest
from promptintern_operator.kube import JOBS, Kube, RequestFailed
from promptintern_operator.leader import Leadership


def test_a_tenure_ends_with_the_lease_that_was_renewed_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(Leadership, "now", staticmethod(lambda: now))
    leadership = Leadership(15)
    assert not leadership.is_held(), "it was never the leader"
    leadership.renew(now)
    now = 1014.9
    assert leadership.is_held()
    now = 1015.0
    assert not leadership.is_held(), "another one may have waited for as long"
    leadership.renew(1010.0)
    assert leadership.is_held()


def test_nothing_is_changed_by_one_that_leads_no_more() -> None:
    """It may look; the API server is not even asked for more."""
    asked: list[str] = []

    class Api:
        async def param_serialize(self, method: str, *_: object, **__: object) -> list[object]:
            asked.append(method)
            raise OSError("nobody there")

    kube = Kube(Api(), may_write=lambda: False)  # type: ignore[arg-type]
    with pytest.raises(RequestFailed, match="another operator may be the leader"):
        asyncio.run(kube.delete(JOBS, "team-a", "small", uid="1"))
    assert asked == []
    with pytest.raises(RequestFailed, match="nobody there"):
        asyncio.run(kube.get(JOBS, "team-a", "small"))
    assert asked == ["GET"]
