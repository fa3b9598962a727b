"""Only the leader may act, and only while no other replica can hold the lease."""

import asyncio

import pytest
from promptintern_operator.kube import JOBS, Kube, RequestFailed
from promptintern_operator.leader import Leadership, owner_of_lease


def test_leadership_ends_with_the_last_renewal_of_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(Leadership, "now", staticmethod(lambda: now))
    leadership = Leadership(15)
    assert not leadership.is_held(), "it was never the leader"
    leadership.renew(now)
    now = 1014.9
    assert leadership.is_held()
    now = 1015.0
    assert not leadership.is_held(), "another replica may have taken the lease"
    leadership.renew(1010.0)
    assert leadership.is_held()


def test_a_former_leader_sends_no_writes() -> None:
    """It may read; other requests are not even sent."""
    methods: list[str] = []

    class Api:
        async def param_serialize(self, method: str, *_: object, **__: object) -> list[object]:
            methods.append(method)
            raise OSError("nobody there")

    kube = Kube(Api(), may_write=lambda: False)  # type: ignore[arg-type]
    with pytest.raises(RequestFailed, match="another operator may be the leader"):
        asyncio.run(kube.delete(JOBS, "team-a", "small", uid="1"))
    assert methods == []
    with pytest.raises(RequestFailed, match="nobody there"):
        asyncio.run(kube.get(JOBS, "team-a", "small"))
    assert methods == ["GET"]


@pytest.mark.parametrize(
    ("user", "uid", "owner"),
    [
        ("system:serviceaccount:system:operator", "u1", ("v1", "ServiceAccount", "operator", "u1")),
        ("system:serviceaccount:another:operator", "u1", None),
        ("system:serviceaccount:system:operator", "", None),
        ("alice", "u1", None),
        ("", "", None),
    ],
)
def test_the_lease_belongs_to_the_operators_service_account(
    user: str, uid: str, owner: tuple[str, str, str, str] | None
) -> None:
    """An owner in another namespace would make the garbage collector delete the lease."""
    reference = owner_of_lease(user, uid, "system")
    found = reference and (reference.api_version, reference.kind, reference.name, reference.uid)
    assert found == owner
