"""The server finishes what it began."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from http.client import HTTPConnection

import pytest
from flask import Flask

from webapp import Settings
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


def test_a_taken_port_is_said_with_the_way_out(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"Port {port} of 127.0.0.1 .* --port"):
            listen(replace(settings, port=port))


def test_an_address_that_is_not_ours(settings: Settings) -> None:
    with pytest.raises(PortTakenError):
        listen(replace(settings, host="192.0.2.1", port=0))
