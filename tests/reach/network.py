"""The endpoints of the table as network namespaces behind one router, with sockets on all ports of the table."""

import contextlib
import ipaddress
import selectors
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from tests.cluster.namespaces import Namespace
from tests.reach.evaluator import Endpoint, Port
from tests.reach.table import Connection, connections

Pair = dict[int, Endpoint]
"""One endpoint with its addresses, by IP version."""
_GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}
_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_KIND = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
_SEND_SECONDS, _LAST_SECONDS, _MOST_SECONDS = 0.5, 4, 30


class Network:
    """A router, and behind it one host for each pod and one for all addresses outside of them.

    The router forwards every connection. A program that enforces NetworkPolicies runs in its namespace.
    """

    def __init__(self, by_version: Mapping[int, Mapping[str, Endpoint]]) -> None:
        self.by_version = by_version
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Create the namespaces, and listen on the ports of the table."""
        self.router = self._namespace()
        with self.router.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        # An API server in the router's namespace refuses to start without a default route; this one leads nowhere.
        self.router.ip(
            "link add nowhere up type bridge",
            "address add 10.216.255.1/32 dev nowhere",
            "route add default dev nowhere",
        )
        pairs: defaultdict[str, Pair] = defaultdict(dict)
        for version, endpoints in self.by_version.items():
            for name, endpoint in endpoints.items():
                pairs[name][version] = endpoint
        outside = self._namespace()
        self._hosts = {}
        for number, (name, pair) in enumerate(pairs.items()):
            is_pod = all(endpoint.namespace is not None for endpoint in pair.values())
            self._hosts[name] = self._namespace() if is_pod else outside
            self._attach(number, self._hosts[name], pair)
        self._listen(pairs)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _namespace(self) -> Namespace:
        namespace = Namespace()
        self._stack.callback(namespace.close)
        return namespace

    def _attach(self, number: int, host: Namespace, pair: Pair) -> None:
        """Connect a host to the router by a cable of its own, as many network plugins do, and route to its addresses.

        The host sends everything to an address that the router's end of every cable has.
        """
        router, eth = f"r{number}", f"e{number}"
        self.router.ip(
            f"link add {router} type veth peer name {eth} netns {host.pid}",
            f"link set {router} up",
            f"address add {_GATEWAY[4]}/32 dev {router}",
            f"address add {_GATEWAY[6]}/64 dev {router} nodad",
        )
        host.ip(f"link set {eth} up")
        for version, endpoint in pair.items():
            bits = ipaddress.ip_address(endpoint.address).max_prefixlen
            host.ip(
                f"address add {endpoint.address}/{bits} dev {eth} {'nodad' if version == 6 else ''}",
                f"route replace {_GATEWAY[version]} dev {eth}",
                f"route replace {_EVERYTHING[version]} via {_GATEWAY[version]} dev {eth} src {endpoint.address}",
            )
            self.router.ip(f"route add {endpoint.address}/{bits} dev {router}")

    def _listen(self, pairs: Mapping[str, Pair]) -> None:
        """Accept connections and answer datagrams on every port that the table names for a target."""
        selector = self._stack.enter_context(selectors.DefaultSelector())
        for name, port in sorted({(connection.target, connection.port) for connection in connections()}):
            for version, endpoint in pairs[name].items():
                listener = self._stack.enter_context(self._socket(name, version, port))
                listener.bind((endpoint.address, port.number))
                if port.protocol == "TCP":
                    listener.listen(64)
                selector.register(listener, selectors.EVENT_READ, port.protocol)
        ended = threading.Event()
        thread = threading.Thread(target=_serve, args=(selector, ended), daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(ended.set)

    def _socket(self, name: str, version: int, port: Port) -> socket.socket:
        with self._hosts[name].entered():
            made = socket.socket(_FAMILY[version], _KIND[port.protocol])
        made.setblocking(False)
        if port.protocol == "TCP":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return made

    def try_all(self, wanted: Iterable[Connection], version: int) -> set[str]:
        """Open connections, all at once, and return those that were answered.

        An answer may be late, so this waits for four seconds after the last one.
        """
        endpoints = self.by_version[version]
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            waiting: dict[socket.socket, Connection] = {}
            for connection in wanted:
                made = stack.enter_context(self._socket(connection.source, version, connection.port))
                made.bind((endpoints[connection.source].address, 0))
                with contextlib.suppress(BlockingIOError):
                    made.connect((endpoints[connection.target].address, connection.port.number))
                is_tcp = connection.port.protocol == "TCP"
                selector.register(made, selectors.EVENT_WRITE if is_tcp else selectors.EVENT_READ)
                waiting[made] = connection
            answered: set[str] = set()
            began = last = time.monotonic()
            while waiting and time.monotonic() < min(last + _LAST_SECONDS, began + _MOST_SECONDS):
                for made, connection in waiting.items():
                    if connection.port.protocol == "UDP":
                        with contextlib.suppress(OSError):
                            made.send(b"?")
                for key, _ in selector.select(_SEND_SECONDS):
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    selector.unregister(ready)
                    if _is_answered(ready):
                        answered.add(str(waiting[ready]))
                        last = time.monotonic()
                    del waiting[ready]
            return answered


def _is_answered(made: socket.socket) -> bool:
    if made.type == socket.SOCK_STREAM:
        return made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    try:
        return made.recv(1) == b"!"
    except OSError:
        return False


def _serve(selector: selectors.BaseSelector, ended: threading.Event) -> None:
    while not ended.is_set():
        for key, _ in selector.select(0.1):
            listener = key.fileobj
            assert isinstance(listener, socket.socket)
            with contextlib.suppress(OSError):  # the client has gone
                if key.data == "TCP":
                    listener.accept()[0].close()
                else:
                    listener.sendto(b"!", listener.recvfrom(1)[1])
