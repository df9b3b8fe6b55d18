"""A proxy before the control plane that cuts, repeats, delays and reorders requests."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum


class Fault(StrEnum):
    """Where a request is hurt."""

    BEFORE_SEND = "before send"  # the connection is cut before anything of it arrives
    MID_BODY = "mid body"  # half of it arrives
    AFTER_BODY = "after body"  # all of it arrives, the connection is cut at once
    BEFORE_STATUS = "before status"  # it is done, nothing of the answer comes back
    MID_RESPONSE = "mid response"  # half of the answer comes back
    AFTER_RESPONSE = "after response"  # all of it comes back, then the connection is cut
    TWICE = "sent twice"  # it is delivered two times, the second answer comes back
    LATE = "late"  # it waits a moment
    OVERTAKEN = "overtaken"  # the connection is cut; it arrives when the next request is answered already
    LAST = "last of all"  # the connection is cut; it arrives when everything else is done


CUTS = frozenset(
    {Fault.BEFORE_SEND, Fault.MID_BODY, Fault.AFTER_BODY, Fault.BEFORE_STATUS, Fault.MID_RESPONSE}
)
Choice = Callable[[int], Fault | None]
_LATE_SECONDS = 0.02


class HttpProxy:
    """Pass requests on to the server at `port`, hurting those whose number (from 1) `choose` chooses."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self.choose: Choice = lambda _: None
        self.requests = 0
        self.faults: Counter[Fault] = Counter()
        self.answers_to_twice: list[tuple[bytes, bytes, bytes]] = []
        """Of each request that was delivered two times: its head, the first answer and the second."""
        self._held: list[tuple[Fault, bytes]] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def begin(self, choose: Choice) -> None:
        """Count from now on, and hurt what is chosen."""
        with self._lock:
            self.choose, self.requests = choose, 0

    def settle(self) -> None:
        """Deliver what is held back still."""
        self._deliver({Fault.OVERTAKEN, Fault.LAST})

    def _deliver(self, held_by: set[Fault]) -> None:
        with self._lock:
            due = [request for fault, request in self._held if fault in held_by]
            self._held = [held for held in self._held if held[0] not in held_by]
        for request in due:
            self._ask(request)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while request := _message(client):
                with self._lock:
                    self.requests += 1
                    fault = self.choose(self.requests)
                    if fault is not None:
                        self.faults[fault] += 1
                if not self._pass_on(client, request, fault):
                    return

    def _pass_on(self, client: socket.socket, request: bytes, fault: Fault | None) -> bool:
        """Pass one request on; return whether the connection is kept."""
        if fault is Fault.BEFORE_SEND:
            return False
        if fault in (Fault.OVERTAKEN, Fault.LAST):
            with self._lock:
                self._held.append((fault, request))
            return False
        if fault is Fault.LATE:
            time.sleep(_LATE_SECONDS)
        first = self._ask(request) if fault is Fault.TWICE else b""
        answer = self._ask(request[: len(request) // 2] if fault is Fault.MID_BODY else request, fault)
        if first:
            self.answers_to_twice.append((request.partition(b"\r\n")[0], first, answer))
        self._deliver({Fault.OVERTAKEN})
        if fault in CUTS:
            if fault is Fault.MID_RESPONSE:
                client.sendall(answer[: len(answer) // 2])
            return False
        client.sendall(answer)
        return fault is not Fault.AFTER_RESPONSE

    def _ask(self, request: bytes, fault: Fault | None = None) -> bytes:
        with socket.create_connection(self._server, timeout=30) as server:
            server.sendall(request)
            if fault in (Fault.MID_BODY, Fault.AFTER_BODY):
                return b""  # gone before the answer is there
            return _message(server)


def _message(end: socket.socket) -> bytes:
    """Return one whole request or answer; empty when there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = end.recv(65_536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        more = end.recv(65_536)
        if not more:
            return b""
        body += more
    return head + b"\r\n\r\n" + body
