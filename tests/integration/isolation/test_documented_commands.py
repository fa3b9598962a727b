"""A tenant with the documented role may run every command that the documentation and the messages show to tenants."""

import pytest

from tests.integration.isolation.commands import Command, documented, rights
from tests.integration.isolation.conftest import RELEASE, World, bind

TENANT, READER, NAMESPACE = "alice", "bob", "documented"
COMMANDS = sorted({each.text: each for each in documented()}.values(), key=lambda each: each.text)
FOR_TENANTS = [each for each in COMMANDS if each.for_tenants and len(each.text.split()) > 2]


@pytest.fixture(scope="module")
def tenants(world: World) -> World:
    """Bind `edit` to alice and `view` to bob, as docs/tenants.md does.

    No controller aggregates the roles here, so their parts are bound.
    """
    world.server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for user, whats in ((TENANT, ("edit", "view")), (READER, ("view",))):
        parts = [part for what in whats for part in (f"{RELEASE}-{what}", f"system:aggregate-to-{what}")]
        world.server.apply(
            [bind(NAMESPACE, f"{user}-{part}".replace(":", "-"), "ClusterRole", part, user) for part in parts]
        )
    return world


def test_the_commands_are_found() -> None:
    texts = " ".join(each.text for each in FOR_TENANTS)
    for part in ("get pij", "describe pij", "describe rayjob", "get rayjobs,pods", "describe job", "annotate pij"):
        assert part in texts
    assert {"messages.py", "preflight.py", "conditions.md", "install.md"} <= {each.place for each in documented()}


@pytest.mark.parametrize("command", FOR_TENANTS, ids=lambda each: each.text[:70])
def test_the_documented_role_may_run_it(tenants: World, command: Command) -> None:
    missing = [
        (verb, group, resource)
        for verb, group, resource in rights(command.text)
        if not tenants.allows(TENANT, verb, resource, group=group, namespace=NAMESPACE)
    ]
    assert not missing, f"{command.place}: {command.text}"


@pytest.mark.parametrize(
    "command", [each for each in FOR_TENANTS if {verb for verb, *_ in rights(each.text)} <= {"get", "list", "watch"}]
)
def test_who_may_only_see_jobs_may_also_see_what_holds_them_up(tenants: World, command: Command) -> None:
    for verb, group, resource in rights(command.text):
        assert tenants.allows(READER, verb, resource, group=group, namespace=NAMESPACE), (verb, resource)


def test_the_role_for_reading_changes_nothing(tenants: World) -> None:
    for group, resource in (
        ("ray.io", "rayjobs"),
        ("kueue.x-k8s.io", "workloads"),
        ("promptintern.dev", "promptinternjobs"),
    ):
        for verb in ("create", "update", "patch", "delete"):
            assert not tenants.allows(READER, verb, resource, group=group, namespace=NAMESPACE), (verb, resource)
