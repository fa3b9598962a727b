"""The servers of the operator: its liveness and readiness probes, and its metrics."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import start_http_server

from promptintern_operator.metrics import WATCH_SILENCE
from promptintern_operator.settings import Settings


async def serve_probes(
    port: int, *, silence: Callable[[], float], limit: float, ready: Callable[[], bool]
) -> web.AppRunner:
    """Serve ``/healthz`` and ``/readyz``.

    Args:
        port: The port to listen on.
        silence: A function that returns the seconds since the last activity of the watch that has been silent longest.
        limit: The silence in seconds after which the liveness probe fails, so that the kubelet restarts the operator.
        ready: A function that returns whether the operator is the leader or can become the leader.
    """

    async def healthz(_: web.Request) -> web.Response:
        quiet = silence()
        WATCH_SILENCE.set(quiet)
        if quiet > limit:
            return web.Response(status=503, text=f"a watch has been silent for {quiet:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if ready() else web.Response(status=503, text="not ready\n")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def serve_metrics(settings: Settings) -> Callable[[], None]:
    """Serve the metrics in a thread, and return the function that stops the server."""
    server, _ = start_http_server(settings.metrics_port, addr=settings.any_address)
    return server.shutdown
