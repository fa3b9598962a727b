"""The operator's own servers, in networks of both address families."""

import asyncio
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client import start_http_server
from promptintern_operator.probes import serve_probes

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


@pytest.mark.parametrize(("address", "hosts"), [("0.0.0.0", ["127.0.0.1"]), ("::", ["127.0.0.1", "[::1]"])])
def test_metrics_are_served_at_the_address_of_the_family(address: str, hosts: list[str]) -> None:
    port = free_port()
    server, _ = start_http_server(port, addr=address)
    stop: Callable[[], None] = server.shutdown
    try:
        assert [get(host, port, "/metrics") for host in hosts] == [200] * len(hosts)
    finally:
        stop()
        server.server_close()
