"""An operator that is limited to namespaces, one of which it loses and regains."""

import time
from collections.abc import Iterator

import pytest

from tests.cluster.client import wait_for
from tests.cluster.errors import NoCluster
from tests.integration.operator.kuberay import Life
from tests.integration.operator.place import Place, Tenant, place_in
from tests.integration.operator.requests import Body

BINDINGS = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings"
KOPF_GIVES_UP_SECONDS = 54 + 6
"""The time of all its tries, and a margin."""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Tenant, Tenant]]:
    """A place whose chart serves only two namespaces."""
    try:
        with place_in(tmp_path_factory.mktemp("limited"), "team-a", "team-b") as place:
            yield place, Tenant(place, "team-a"), Tenant(place, "team-b")
    except NoCluster as missing:
        pytest.skip(str(missing))


def take_rights(place: Place, namespace: str) -> list[Body]:
    """Delete the RoleBindings of a namespace, as happens first when it is deleted, and return them."""
    bindings = place.requests.items(BINDINGS.format(namespace))
    for binding in bindings:
        place.requests.ask("DELETE", f"{BINDINGS.format(namespace)}/{binding['metadata']['name']}")
    assert bindings
    return bindings


def give_rights(place: Place, namespace: str, bindings: list[Body]) -> None:
    for binding in bindings:
        meta = {"name": binding["metadata"]["name"], "namespace": namespace}
        content = {key: binding[key] for key in ("roleRef", "subjects")}
        place.requests.ask("POST", BINDINGS.format(namespace), {"metadata": meta, **content})


def test_a_lost_namespace_does_not_affect_the_others(limited: tuple[Place, Tenant, Tenant]) -> None:
    place, stays, goes = limited
    operator = place.operator("limited")
    operator.start()
    operator.wait_until_leading(40)
    stays.submit("first", Life())
    stays.wait("first", "Succeeded", 40)  # before Kopf would give up listing namespaces, which is forbidden
    operator.kill()

    bindings = take_rights(place, goes.name)
    goes.submit("waits", Life())
    operator.start()
    began = time.monotonic()
    operator.wait_until_leading(40)
    stays.submit("second", Life())
    stays.wait("second", "Succeeded", 40)
    time.sleep(max(0.0, began + KOPF_GIVES_UP_SECONDS - time.monotonic()))
    stays.submit("third", Life())
    stays.wait("third", "Succeeded", 20)
    assert goes.status("waits") == {}
    assert operator.probe() == 200

    give_rights(place, goes.name, bindings)
    goes.wait("waits", "Succeeded", KOPF_GIVES_UP_SECONDS + 20)
    assert len(operator.log_lines("leading")) == 2, "once after each start"
    assert operator.stop() == 0
    assert "Traceback" not in operator.text()


def test_jobs_in_other_namespaces_are_ignored(limited: tuple[Place, Tenant, Tenant]) -> None:
    place, stays, _ = limited
    operator = place.operator("limited-again")
    operator.start()
    operator.wait_until_leading(40)
    elsewhere = place.namespace()
    elsewhere.submit("ignored", Life())
    stays.submit("served", Life())
    stays.wait("served", "Succeeded", 40)
    assert elsewhere.status("ignored") == {}
    wait_for(lambda: operator.total("promptintern_jobs") > 0, 15, "the jobs to be counted")
    assert operator.stop() == 0
