"""An HTTP server that answers requests about one job as an API server does, for tests without a real one."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

CREATED = "2026-01-02T03:04:05Z"
JOB: dict[str, Any] = {
    "metadata": {"name": "small", "namespace": "default", "uid": "0", "generation": 1, "creationTimestamp": CREATED},
    "spec": {},
    "status": {
        "phase": "Training",
        "observedGeneration": 1,
        "startTime": CREATED,
        "attempts": [{"number": 1, "rayJobName": "small-a1", "startedAt": CREATED, "headPods": 1}],
        "training": {
            "term": 1,
            "stages": [{"index": 0, "rate": 0.5, "shots": 1, "promptTokens": 42.5, "startedAt": CREATED}],
            "progress": {"step": 30, "total": 120, "tokensPerSecond": 12345.6},
        },
    },
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(JOB).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name in the base class
        """Log nothing."""


@contextmanager
def one_job_server(kubeconfig: Path) -> Iterator[None]:
    """Serve ``JOB`` inside the block, and write a kubeconfig for the server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "current-context": "here",
                "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "me", "user": {"token": "secret"}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            }
        )
    )
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
