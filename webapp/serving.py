"""Serve the application from this process until it is told to stop; running requests are finished first."""

from __future__ import annotations

import gc
import io
import signal
import socket
import time
from types import FrameType
from typing import Any

from flask import Flask
from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import WSGITask

from webapp.api.bodies import MAX_PAYLOAD_BYTES
from webapp.settings import Settings

THREADS = 16
BACKLOG = 128
FAR_WALL_BYTES = 1_000_000_000
"""Larger bodies are not even received: the server refuses them in words of its own."""
STOP_SECONDS = 30.0
"""So long a server that was told to stop answers what is under way; gunicorn is told the same."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PortTakenError(Exception):
    """The port is not ours to listen on."""


class _Unread:
    """A body that is larger than any that is read: only its length is kept, by which it is refused."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes) -> None:
        self._length += len(data)

    def getfile(self) -> io.BytesIO:
        return io.BytesIO()

    def close(self) -> None:
        pass


class _Parser(HTTPRequestParser):
    """Receive a body that is too large without keeping it, so that the application can say what it says."""

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        body = self.body_rcv
        if body is None or isinstance(body.buf, _Unread):
            return consumed
        if max(self.content_length, len(body.buf)) > MAX_PAYLOAD_BYTES:
            kept, body.buf = body.buf, _Unread(len(body.buf))
            kept.close()
        return consumed


class _Task(WSGITask):
    """End an answer of unknown length by a last chunk, but not that to HEAD, which has none."""

    def finish(self) -> None:
        if not self.wrote_header:
            self.write(b"")  # that an answer is sent in chunks stands in its headers, also to HEAD
        if self.request.command == "HEAD":
            self.chunked_response = False
        super().finish()


class _Channel(HTTPChannel):
    parser_class = _Parser
    task_class = _Task


def listen(settings: Settings) -> socket.socket:
    """Take the port, before anything is promised to anybody; raise `PortTakenError` when it is not free."""
    host = settings.host.strip("[]")
    try:
        family, *_, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as problem:
        raise PortTakenError(
            f"Port {settings.port} of {settings.host} cannot be used ({problem.strerror}). "
            "Choose another one with --port (or PORT)."
        ) from problem


def serve(app: Flask, settings: Settings, listening: socket.socket | None = None) -> None:
    """Answer requests until SIGTERM or Ctrl+C, on a socket of `listen` or a new one."""
    connections: dict[int, Any] = {}
    server = create_server(
        app,
        map=connections,
        sockets=[listening or listen(settings)],
        threads=THREADS,
        backlog=BACKLOG,
        ident=None,
        max_request_body_size=FAR_WALL_BYTES,
        # Without a proxy in front these headers are anybody's word; with one the app counts the hops.
        clear_untrusted_proxy_headers=settings.proxy_hops == 0,
    )
    server.channel_class = _Channel
    asked: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        # Only noted: raised in the middle of anything, say of a finalizer, an exit may be lost.
        if asked:
            raise SystemExit  # a second signal waits for nobody
        asked.append(number)
        server.pull_trigger()

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        settle()
        while not asked:
            wasyncore.loop(server.adj.asyncore_loop_timeout, map=connections, count=1)
        _finish(server, connections)
    except SystemExit:
        pass
    finally:
        gc.unfreeze()
        for number, handler in before.items():
            signal.signal(number, handler)
        for channel in list(server.active_channels.values()):
            channel.handle_close()  # and the files of answers that nobody fetched
        wasyncore.close_all(connections, ignore_all=True)


def _finish(server: Any, connections: dict[int, Any]) -> None:
    """Answer what is under way or still arriving, and nobody new; a second signal ends that."""
    wasyncore.dispatcher.close(server)  # listens no more; its connections go on
    until = time.monotonic() + STOP_SECONDS
    while any(map(_is_under_way, server.active_channels.values())) and time.monotonic() < until:
        wasyncore.loop(0.1, map=connections, count=1)
    server.task_dispatcher.shutdown(timeout=max(0.0, until - time.monotonic()))


def _is_under_way(channel: HTTPChannel) -> bool:
    arriving = channel.connected and channel.request is not None
    return bool(channel.requests or channel.total_outbufs_len or arriving)


def settle() -> None:
    """Leave what is there now out of every later search for garbage: it lives as long as the process.

    To look through it takes a tenth of a second, in which no request is answered.
    """
    gc.collect()
    gc.freeze()
