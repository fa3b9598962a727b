"""The operator's own servers, in networks of both address families."""

import asyncio
import urllib.request

import pytest
from promptintern_operator.probes import serve_metrics, serve_probes
from promptintern_operator.settings import Settings

from tests.cluster.control_plane import free_port


def get(host: str, port: int, path: str) -> int:
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
        return int(answer.status)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_probes_answer_in_both_address_families(host: str) -> None:
    port = free_port()

    async def ask() -> int:
        runner = await serve_probes(port, silence=lambda: 0.0, limit=1.0, ready=lambda: True)
        try:
            return await asyncio.to_thread(get, host, port, "/readyz")
        finally:
            await runner.cleanup()

    assert asyncio.run(ask()) == 200


@pytest.mark.parametrize(("service", "hosts"), [("10.96.0.1", ["127.0.0.1"]), ("fd00:10::1", ["127.0.0.1", "[::1]"])])
def test_metrics_are_served_in_the_address_family_of_the_cluster(
    service: str, hosts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", service)
    port = free_port()
    stop = serve_metrics(Settings(metrics_port=port))
    try:
        assert [get(host, port, "/metrics") for host in hosts] == [200] * len(hosts)
    finally:
        stop()
