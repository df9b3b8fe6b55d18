"""A proxy before PostgreSQL that swallows answers: the server does as asked, the client never knows."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import make_url

_SOCKET = ".s.PGSQL.5432"
_READY = b"Z\x00\x00\x00\x05"  # the server is ready for the next query: the last five bytes but one
Loses = Callable[[int], bool]


def is_write(query: bytes, *, in_transaction: bool) -> bool:
    """Return whether a query ends a write: a COMMIT, or a statement that writes by itself."""
    words = b"COMMIT" if in_transaction else (b"INSERT ", b"UPDATE ", b"DELETE ", b"EXECUTE append_step")
    return query.startswith(words)


class Proxy:
    """Pass everything on, but lose the answers to the writes whose number (from 1) `loses` chooses."""

    def __init__(self, address: str) -> None:
        url = make_url(address)
        server = url.query["host"]
        assert isinstance(server, str)
        self._server = str(Path(server, _SOCKET))
        self._home = Path(tempfile.mkdtemp(prefix="re-px-"))  # the path of a socket must be short
        self.url = url.set(query={"host": str(self._home)}).render_as_string(hide_password=False)
        self.loses: Loses = lambda _: False
        self.writes = self.lost = 0
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._home / _SOCKET))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections and take no more."""
        for connection in self._connections:
            connection.close()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def begin(self, loses: Loses) -> None:
        """Count from now on, and lose what is chosen."""
        with self._lock:
            self.loses, self.writes, self.lost = loses, 0, 0

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._server)
                except OSError:
                    server.close()
                    client.close()
                    continue
                self._connections.append(_Connection(self, client, server))

    def is_lost(self) -> bool:
        """Count a write, and return whether its answer is lost."""
        with self._lock:
            self.writes += 1
            lost = self.loses(self.writes)
            self.lost += lost
            return lost


class _Connection:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._swallow = threading.Event()
        self._pending = b""
        self._begun = self._in_transaction = False

        pumps = (self._to_server, self._to_client)
        self._threads = [threading.Thread(target=pump, daemon=True) for pump in pumps]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        _shut(self._client)
        _shut(self._server)
        for thread in self._threads:
            thread.join(10)
        self._client.close()
        self._server.close()

    def _to_server(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(65_536):
                self._pending += data
                while (message := self._next_message()) is not None:
                    if message[:1] == b"Q" and self._begun:
                        self._look_at(message[5:])
                    self._begun = True
                    self._server.sendall(message)
        _shut(self._server)

    def _look_at(self, query: bytes) -> None:
        if is_write(query, in_transaction=self._in_transaction) and self._proxy.is_lost():
            self._swallow.set()
        if query.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK")):
            self._in_transaction = query.startswith(b"BEGIN")

    def _next_message(self) -> bytes | None:
        """Return the next whole message; the first of a connection has no letter before its length."""
        start = 1 if self._begun else 0
        if len(self._pending) < start + 4:
            return None
        end = start + int.from_bytes(self._pending[start : start + 4], "big")
        if len(self._pending) < end:
            return None
        message, self._pending = self._pending[:end], self._pending[end:]
        return message

    def _to_client(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(65_536):
                if self._swallow.is_set():
                    while data[-6:-1] != _READY:
                        data += self._server.recv(65_536)
                    break
                self._client.sendall(data)
        _shut(self._client)
        _shut(self._server)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
