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
from flask import Flask, Response
from waitress.buffers import OverflowableBuffer

from resume_engine.core.permissions import Role
from tests.provision.app_fixtures import SYSTEM
from webapp import Settings, serving
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


def answers_when_stopped(
    app: Flask, settings: Settings, visit: Callable[[HTTPConnection], bytes]
) -> list[bytes]:
    """Return what `visit`, which stops the server meanwhile, was answered."""
    answers: list[bytes] = []
    listening = listen(replace(settings, port=0))

    def ask() -> None:
        port = listening.getsockname()[1]
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            is_served(port)
            answers.append(visit(connection))
        except OSError:
            answers.append(b"")
        finally:
            connection.close()

    asking = threading.Thread(target=ask)
    asking.start()
    serve(app, settings, listening)
    asking.join(20)
    return answers


def is_served(port: int) -> None:
    """Wait until the server answers somebody: then it has taken everything that came before."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    connection.close()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)


def test_a_long_request_is_answered_before_it_stops(app: Flask, settings: Settings) -> None:
    @public
    def slow() -> str:
        stop()
        time.sleep(6)
        return "done"

    def visit(connection: HTTPConnection) -> bytes:
        connection.request("GET", "/slow")
        return connection.getresponse().read()

    app.add_url_rule("/slow", "slow", slow)
    assert answers_when_stopped(app, settings, visit) == [b"done"]


def test_a_request_that_is_still_arriving_is_answered_and_no_new_one(app: Flask, settings: Settings) -> None:
    def visit(connection: HTTPConnection) -> bytes:
        connection.connect()
        connection.sock.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n")
        is_served(connection.port)
        stop()
        with pytest.raises(OSError):
            for _ in range(100):  # until the signal has arrived
                socket.create_connection(connection.sock.getpeername()).close()
                time.sleep(0.05)
        connection.sock.sendall(b"\r\n")
        return connection.sock.recv(15)

    assert answers_when_stopped(app, settings, visit) == [b"HTTP/1.1 200 OK"]


def test_a_long_answer_is_fetched_to_its_end(app: Flask, settings: Settings) -> None:
    asked = threading.Event()

    @public
    def long() -> str:
        asked.set()
        return "x" * 30_000_000

    def visit(connection: HTTPConnection) -> bytes:
        connection.request("GET", "/long")
        assert asked.wait(10)
        stop()
        return connection.getresponse().read()[-1:]

    app.add_url_rule("/long", "long", long)
    assert answers_when_stopped(app, settings, visit) == [b"x"]


def test_it_does_not_wait_for_ever(app: Flask, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def visit(connection: HTTPConnection) -> bytes:
        connection.connect()
        connection.sock.sendall(b"GET /health HTTP/1.1\r\n")
        is_served(connection.port)
        stop()
        return connection.sock.recv(15)

    monkeypatch.setattr(serving, "STOP_SECONDS", 0.5)
    assert answers_when_stopped(app, settings, visit) == [b""]


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


@pytest.mark.parametrize(("method", "end"), [("GET", b"\r\n0\r\n\r\n"), ("HEAD", b"")])
def test_an_answer_to_head_ends_with_its_headers(
    app: Flask, settings: Settings, method: str, end: bytes
) -> None:
    @public
    def streamed() -> Response:
        return Response(iter(["abc"]))

    def ask(connection: HTTPConnection) -> None:
        connection.connect()
        connection.sock.sendall(f"{method} /streamed HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        answers.append(b"".join(iter(lambda: connection.sock.recv(65_536), b"")))

    answers: list[bytes] = []
    app.add_url_rule("/streamed", "streamed", streamed)
    serve_while(app, settings, ask)
    head, _, body = answers[0].partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body.endswith(end) and bool(body) is bool(end)


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


def test_a_signal_that_comes_in_a_finalizer_is_not_lost(
    app: Flask, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is raised there goes nowhere: Python says so and goes on."""

    class Last:
        def __del__(self) -> None:
            stop()

    monkeypatch.setattr(serving, "settle", Last)
    again = threading.Timer(10, stop)
    again.start()
    settings = replace(settings, port=0)
    serve(app, settings, listen(settings))
    assert again.is_alive(), "only the second signal ended it"
    again.cancel()
