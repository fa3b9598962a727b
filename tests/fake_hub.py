"""A server that answers as a model hub does, for the hub's own client."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]


@dataclass
class FakeHub:
    """The repositories of a hub, and what was asked of it."""

    repositories: dict[str, dict[str, Files]]
    """The files of each repository by name, such as datasets/acme/rows or acme/model, and by branch."""
    gated: dict[str, str] = field(default_factory=dict)
    """The token that opens each gated repository."""
    is_down: bool = False
    sent: dict[str, int] = field(default_factory=dict)
    """The number of bytes that were sent of each file, by its path."""


def commit_of(branch: str) -> str:
    """Return the commit of a branch."""
    return hashlib.sha1(branch.encode()).hexdigest()


@contextmanager
def running(hub: FakeHub) -> Iterator[str]:
    """Serve ``hub`` on this machine, and provide its URL."""
    handler = type("_Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(endpoint: str, home: Path, program: str, argument: str, *, token: str = "") -> dict[str, Any]:
    """Run a Python program with one argument that prints a JSON object, and return the object.

    It runs in another process, because the hub's client reads its settings when it is imported.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_TOKEN": token} if token else {}
    done = subprocess.run(
        [sys.executable, "-c", program, argument], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if self.hub.is_down:
            self._send(503, b"try later")
        elif parts[:1] == ["api"] and parts[4:5] == ["tree"]:
            self._tree(_name(parts[1:4]), parts[5])
        elif parts[:1] == ["api"] and parts[4:5] == ["revision"]:
            self._info(_name(parts[1:4]), parts[5])
        elif parts[:1] == ["api"] and len(parts) == 4:
            self._info(_name(parts[1:4]), "main")
        elif parts[3:4] == ["resolve"]:
            self._file("/".join(parts[:3]), parts[4], "/".join(parts[5:]))
        elif parts[2:3] == ["resolve"]:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._send(404, b"{}")

    def _branch(self, name: str, revision: str) -> tuple[str, Files] | None:
        """Return the branch and its files, or answer that they do not exist or may not be read."""
        token = self.hub.gated.get(name)
        branches = self.hub.repositories.get(name)
        if branches is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
            return None
        for branch, files in branches.items():
            if revision in (branch, commit_of(branch)):
                return branch, files
        self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return None

    def _tree(self, name: str, revision: str) -> None:
        if found := self._branch(name, revision):
            files = found[1]
            tree = [{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in files]
            self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def _info(self, name: str, revision: str) -> None:
        if found := self._branch(name, revision):
            branch, files = found
            info = {
                **{"id": name, "sha": commit_of(branch), "private": False, "gated": False, "disabled": False},
                **{"downloads": 0, "likes": 0, "tags": [], "siblings": [{"rfilename": path} for path in files]},
            }
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        if not (found := self._branch(name, revision)):
            return
        branch, files = found
        if path not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content, status = files[path], 200
        headers = {"X-Repo-Commit": commit_of(branch), "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            status, content = 206, content[int(first) : int(last) + 1 if last else None]
        if self.command == "GET":
            self.hub.sent[path] = self.hub.sent.get(path, 0) + len(content)
        self._send(status, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _name(parts: list[str]) -> str:
    """Return the name of a repository from the parts of a path of the hub's API."""
    return "/".join(parts if parts[0] == "datasets" else parts[1:])
