"""Serve the application from this process until it is told to stop; running requests are finished first."""

from __future__ import annotations

import errno
import signal
from types import FrameType
from typing import Any

from flask import Flask
from waitress import create_server

from webapp.settings import Settings

THREADS = 16
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PortTakenError(Exception):
    """Another program listens there already."""


def serve(app: Flask, settings: Settings) -> None:
    """Answer requests until SIGTERM or Ctrl+C; raise `PortTakenError` when the port is in use."""
    try:
        server = create_server(
            app,
            host=settings.host.strip("[]"),
            port=settings.port,
            threads=THREADS,
            ident=None,
            # Flask refuses larger bodies with a page that says so; this is the far wall.
            max_request_body_size=10_000_000,
            # Without a proxy in front these headers are anybody's word; with one the app counts the hops.
            clear_untrusted_proxy_headers=settings.proxy_hops == 0,
        )
    except OSError as problem:
        if problem.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortTakenError(
                f"Port {settings.port} of {settings.host} cannot be used ({problem.strerror}). "
                "Choose another one with --port (or PORT)."
            ) from problem
        raise
    before = {number: signal.signal(number, _stop) for number in STOP_SIGNALS}
    try:
        server.run()  # returns after a stop signal, when the running requests are answered
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        server.close()


def _stop(number: int, frame: FrameType | None) -> Any:
    raise SystemExit(0)
