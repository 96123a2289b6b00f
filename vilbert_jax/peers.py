"""How the processes of one run notice at once that one of them has ended, and all end with a reason.

JAX's own heartbeat takes tens of seconds, says little, and ends a process with a C++ stack trace; a collective that
waits for a dead peer may wait until then. Here every process keeps one TCP connection to process 0. The system closes
it when a process ends, however it ends; keep-alive probes, which the system answers too, find a machine that is gone.
Process 0 passes on what it learns.
"""

import contextlib
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

_PROBE_AFTER, _PROBE_EVERY, _PROBES = 10, 5, 4  # seconds, seconds, number: a machine that is gone is noticed in 30 s
_PASSING_ON = 3.0  # seconds that process 0 gives the others to hear the news before it ends
_CONNECTING = 30.0  # seconds

LOST = 1  # exit code of a process that ends because another one did


class Peers:
    """The connections of one process; a thread of its own listens to them.

    Args:
        name: of this process, for people.
        on_lost: called in the thread with the sentence that says which process ended and how; must not return.
        server: of process 0: where the others connect.
    """

    def __init__(self, name: str, on_lost: Callable[[str], None], server: "Server | None" = None):
        self._name, self._on_lost, self._server = name, on_lost, server
        self._selector = selectors.DefaultSelector()
        self._others: dict[socket.socket, _Other] = {}
        self._lock = threading.Lock()
        self._silent = False  # this process ends by itself, with a message of its own
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="peers", daemon=True)
        if server is not None:
            self._selector.register(server.socket, selectors.EVENT_READ)

    @classmethod
    def of_first(cls, server: "Server", name: str, on_lost: Callable[[str], None]) -> "Peers":
        """The connections of process 0."""
        return cls(name, on_lost, server)._listening()

    @classmethod
    def of_other(
        cls, address: tuple[str, int], token: str, name: str, first: str, on_lost: Callable[[str], None]
    ) -> "Peers":
        """The connection of another process to process 0, called ``first``.

        Raises:
            OSError: it cannot be reached.
        """
        connection = socket.create_connection(address, timeout=_CONNECTING)
        peers = cls(name, on_lost)
        peers._add(connection, first)
        _send(connection, {"token": token, "name": name})
        return peers._listening()

    def finish(self) -> None:
        """Says that this process ends because its work is done."""
        with self._lock:
            for connection in self._others:
                _send(connection, {"done": True})

    def fail(self, reason: str) -> None:
        """Says that this process ends because of ``reason``; returns when the others had time to hear of it."""
        self._silent = True
        self._tell(f"{self._name} stopped ({reason})")

    def close(self) -> None:
        """Stops listening and closes the connections."""
        self._closed = True
        self._thread.join()
        for open_socket in (*self._others, *([self._server.socket] if self._server else [])):
            open_socket.close()
        self._selector.close()

    def _listening(self) -> "Peers":
        self._thread.start()
        return self

    def _add(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("KEEPIDLE", _PROBE_AFTER), ("KEEPINTVL", _PROBE_EVERY), ("KEEPCNT", _PROBES)):
            if hasattr(socket, f"TCP_{option}"):  # macOS names the first one otherwise; its default is two hours
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{option}"), value)
        with self._lock:
            self._others[connection] = _Other(name)
        self._selector.register(connection, selectors.EVENT_READ)

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        with self._lock:
            del self._others[connection]
        connection.close()

    def _listen(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(timeout=0.2):
                assert isinstance(key.fileobj, socket.socket)
                if self._server is not None and key.fileobj is self._server.socket:
                    with contextlib.suppress(OSError):
                        self._add(key.fileobj.accept()[0], "")
                else:
                    self._receive(key.fileobj)

    def _receive(self, connection: socket.socket) -> None:
        other = self._others[connection]
        try:
            data = connection.recv(1 << 16)
        except OSError as error:
            self._drop(connection)
            if other.name and not other.done:
                self._lose(f"{other.name} cannot be reached any more ({error.strerror})")
            return
        if not data:
            self._drop(connection)
            if other.name and not other.done:
                self._lose(f"{other.name} ended without a word: its own log or the scheduler's says why")
            return
        for message in other.messages(data):
            if not other.name:  # whoever connects to process 0 says first who it is
                if self._server is None or message.get("token") != self._server.token:
                    self._drop(connection)
                    return
                other.name = str(message.get("name"))
            elif message.get("done"):
                other.done = True
            elif "lost" in message:
                self._lose(str(message["lost"]))

    def _lose(self, sentence: str) -> None:
        if self._silent or self._closed:
            return
        self._tell(sentence)
        self._on_lost(sentence)

    def _tell(self, sentence: str) -> None:
        """Process 0 tells all others and waits until they have ended; another process tells process 0."""
        with self._lock:
            others = list(self._others)
        for connection in others:
            _send(connection, {"lost": sentence})
        deadline = time.monotonic() + _PASSING_ON
        for connection in others if self._server is not None else ():
            with contextlib.suppress(OSError):
                connection.settimeout(max(deadline - time.monotonic(), 0.01))
                while connection.recv(1 << 16):
                    pass


class Server:
    """Where the other processes find process 0: a free port of all interfaces, and a token that strangers lack."""

    def __init__(self):
        try:
            self.socket = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        except (OSError, ValueError):  # a machine without IPv6
            self.socket = socket.create_server(("", 0))
        self.port = int(self.socket.getsockname()[1])
        self.token = secrets.token_hex(16)


class _Other:
    """What is known of the process at the other end."""

    def __init__(self, name: str):
        self.name = name
        self.done = False
        self._rest = b""

    def messages(self, data: bytes) -> list[dict[str, Any]]:
        """Whole lines so far."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                found.append(message if isinstance(message, dict) else {})
        return found


def end_now(message: str, code: int) -> NoReturn:
    """Ends this process at once with a last message, without waiting for threads that wait for a dead process."""
    printing = threading.Thread(target=sys.stdout.flush, daemon=True)  # whoever prints just now may hold its lock
    if message:
        os.write(2, f"\n{message}\n".encode())  # on a line of its own, below a progress bar
    printing.start()
    printing.join(timeout=1)
    os._exit(code)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the reader of the connection notices
        connection.sendall(json.dumps(message).encode() + b"\n")
