"""Visitors who send half of a request, or do not hang up, keep no thread of gunicorn for long."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from gunicorn.workers.gthread import ThreadWorker

LARGE = b"x" * 20_000_000
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def configuration(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the settings of gunicorn, with little patience."""
    from webapp import gunicorn_config

    monkeypatch.setattr(gunicorn_config, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(gunicorn_config, "HANG_UP_SECONDS", 0.2)
    return gunicorn_config


@pytest.fixture
def pair(configuration: ModuleType) -> Iterator[Pair]:
    """Return a visitor's end of a connection and the one that the server accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        configuration.when_ready(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listening)]))
        with socket.create_connection(listening.getsockname()) as visitor:
            accepted, _ = listening.accept()
            with accepted:
                accepted.setblocking(True)  # as gunicorn does before it reads
                yield visitor, accepted


def test_a_thread_does_not_wait_for_the_rest_for_ever(pair: Pair) -> None:
    visitor, accepted = pair
    visitor.sendall(b"GET")
    assert accepted.recv(10) == b"GET"
    with pytest.raises(BlockingIOError):
        accepted.recv(10)


def test_a_long_answer_may_be_fetched_slowly(pair: Pair) -> None:
    visitor, accepted = pair
    sending = threading.Thread(target=accepted.sendall, args=(LARGE,))
    sending.start()
    time.sleep(0.6)
    fetched = 0
    while fetched < len(LARGE):
        fetched += len(visitor.recv(1_000_000))
    sending.join(10)


@pytest.mark.parametrize("hangs_up", [True, False])
def test_the_thread_that_answered_hangs_up(
    configuration: ModuleType, pair: Pair, monkeypatch: pytest.MonkeyPatch, hangs_up: bool
) -> None:
    visitor, accepted = pair
    monkeypatch.setattr(ThreadWorker, "handle", lambda *_: False)
    worker = configuration.Worker.__new__(configuration.Worker)
    if hangs_up:
        visitor.close()
    began = time.monotonic()
    assert worker.handle(SimpleNamespace(sock=accepted)) is False
    assert (time.monotonic() - began < 0.2) is hangs_up
    assert accepted.recv(1) == b""  # so gunicorn need not wait for it where it takes new visitors


def test_one_that_is_kept_is_left_open(
    configuration: ModuleType, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor, accepted = pair
    monkeypatch.setattr(ThreadWorker, "handle", lambda *_: True)
    assert configuration.Worker.__new__(configuration.Worker).handle(SimpleNamespace(sock=accepted)) is True
    accepted.sendall(b"more")
    assert visitor.recv(4) == b"more"


def test_silence_is_no_failure_of_ours(configuration: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    def said(error: Exception) -> list[Any]:
        caplog.clear()
        try:
            raise error
        except OSError:
            log.exception("Socket error processing request.")
        return [(record.levelname, record.exc_info is not None) for record in caplog.records]

    log = configuration.OneLog.__new__(configuration.OneLog)
    log.error_log = logging.getLogger("tests.gunicorn")
    caplog.set_level(logging.INFO, "tests.gunicorn")
    assert said(BlockingIOError()) == [("INFO", False)]
    assert said(OSError("no such device")) == [("ERROR", True)]
