"""The server finishes what it began."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection

import pytest
from flask import Flask
from waitress.buffers import OverflowableBuffer

from resume_engine.core.permissions import Role
from tests.provision.app_fixtures import SYSTEM
from webapp import Settings
from webapp.api import bodies
from webapp.extensions import services
from webapp.permissions import public
from webapp.serving import PortTakenError, listen, serve


def test_a_running_request_is_answered_before_it_stops(app: Flask, settings: Settings) -> None:
    entered = threading.Event()

    @public
    def slow() -> str:
        entered.set()
        time.sleep(0.5)
        spared.append(gc.get_freeze_count())
        return "done"

    app.add_url_rule("/slow", "slow", slow)
    listening = listen(replace(settings, port=0))
    port = listening.getsockname()[1]
    answers: list[bytes] = []
    spared: list[int] = []  # objects that no search for garbage looks at

    def ask() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/slow")
        answers.append(connection.getresponse().read())
        connection.close()

    def ask_then_stop() -> None:
        asking = threading.Thread(target=ask)
        asking.start()
        entered.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)
        asking.join(10)

    before = signal.getsignal(signal.SIGTERM)
    visitor = threading.Thread(target=ask_then_stop)
    visitor.start()
    serve(app, settings, listening)  # in this thread: signals arrive here
    visitor.join(10)
    assert answers == [b"done"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert spared[0] > 10_000 > gc.get_freeze_count()


def serve_while(app: Flask, settings: Settings, ask: Callable[[HTTPConnection], None]) -> None:
    """Serve in this thread, where signals arrive, until `ask` is done in another."""
    listening = listen(replace(settings, port=0))
    connection = HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=30)

    def ask_then_stop() -> None:
        try:
            ask(connection)
        finally:
            connection.close()
            os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=ask_then_stop)
    visitor.start()
    serve(app, settings, listening)
    visitor.join(10)


PIECE = b" " * 500_000


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("pieces", "status"), [(19, 400), (20, 400), (21, 413), (60, 413)])
def test_what_is_too_large_is_refused_by_the_application_and_kept_nowhere(
    app: Flask, settings: Settings, monkeypatch: pytest.MonkeyPatch, chunked: bool, pieces: int, status: int
) -> None:
    key = services(app).keys.create("large", Role.RUNNER, actor=SYSTEM).text
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    kept: list[int] = []
    append = OverflowableBuffer.append

    def noted(buffer: OverflowableBuffer, data: bytes) -> None:
        append(buffer, data)
        kept.append(len(buffer))

    monkeypatch.setattr(OverflowableBuffer, "append", noted)
    answers: list[tuple[int, str | None, dict[str, object]]] = []

    def ask(connection: HTTPConnection) -> None:
        if not chunked:
            headers["Content-Length"] = str(pieces * len(PIECE))
        for _ in range(2):  # the connection lives on
            body = (PIECE for _ in range(pieces))
            connection.request("POST", "/api/start_run", body, headers, encode_chunked=chunked)
            answer = connection.getresponse()
            answers.append((answer.status, answer.getheader("Content-Type"), json.loads(answer.read())))

    serve_while(app, settings, ask)
    assert [(found[0], found[1]) for found in answers] == [(status, "application/json")] * 2
    assert all(set(found[2]) == {"detail", "code", "request_id"} for found in answers)
    assert max(kept, default=0) <= bodies.MAX_PAYLOAD_BYTES + len(PIECE)


def test_a_taken_port_is_said_with_the_way_out(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"Port {port} of 127.0.0.1 .* --port"):
            listen(replace(settings, port=port))


def test_an_address_that_is_not_ours(settings: Settings) -> None:
    with pytest.raises(PortTakenError):
        listen(replace(settings, host="192.0.2.1", port=0))
