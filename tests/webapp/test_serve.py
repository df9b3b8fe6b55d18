"""`resume-engine serve`: several workers that finish what they began."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner

from resume_engine.cli import main
from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from tests.provision.app_fixtures import SYSTEM
from webapp.keys.records import KeyHashing
from webapp.keys.store import KeyStore

SECRET = "0123456789abcdef0123456789abcdef"
Server = tuple["subprocess.Popen[str]", int]
StartServer = Callable[..., Server]


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Address of a database that is not there yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def start_server(tmp_path: Path, database: str) -> Iterator[StartServer]:
    """Start a server of two workers; return its process and port once it answers."""
    started: list[tuple[subprocess.Popen[str], IO[str]]] = []

    def start(**environ: str) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        log = (tmp_path / "log").open("w")
        words = ["serve", "--workers", "2", "--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-m", "resume_engine.cli", *words],
            env={**os.environ, "DATABASE_URL": database, "SECRET_KEY": SECRET, **environ},
            stdout=log,
            stderr=log,
            text=True,
        )
        started.append((process, log))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                status, _ = ask(port, "GET /health")
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
                continue
            assert status == 200
            return process, port
        raise AssertionError((tmp_path / "log").read_text())

    yield start
    for process, log in started:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        log.close()


def connect(port: int, words: str, *headers: str) -> socket.socket:
    """Send the head of a request."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = [f"{words} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    return connection


def answer_of(connection: socket.socket) -> tuple[int, str]:
    """Return status and all that was sent."""
    with connection:
        text = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    found = re.match(r"HTTP/1\.1 (\d+)", text)
    if found is None:
        raise ConnectionResetError(text)
    return int(found[1]), text


def ask(port: int, words: str, *headers: str) -> tuple[int, str]:
    return answer_of(connect(port, words, *headers))


def test_a_request_that_is_under_way_is_answered(start_server: StartServer, tmp_path: Path) -> None:
    """It also shows that two workers start on a database that is not there."""
    process, port = start_server(LOG_FORMAT="json", LOG_LEVEL="info")
    body = b"email=nobody%40example.org&password=wrong"
    under_way = connect(
        port,
        "POST /login",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
    )
    under_way.sendall(body[:10])
    time.sleep(0.5)  # a worker waits for the rest
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    under_way.sendall(body[10:])
    status, text = answer_of(under_way)
    assert status == 403, text  # without a form token: answered, not cut off
    assert "</html>" in text
    assert process.wait(20) == 0
    with pytest.raises(OSError):
        ask(port, "GET /health")
    log = (tmp_path / "log").read_text()
    said = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert any(entry["logger"] == "gunicorn.error" for entry in said)
    assert "Traceback" not in log


def test_each_worker_tells_the_numbers_of_all_and_believes_no_proxy(
    start_server: StartServer, database: str
) -> None:
    _, port = start_server(METRICS_PUBLIC="true")
    for _ in range(20):
        assert ask(port, "GET /api/runs")[0] == 401
    counted = re.compile(r'request_seconds_count\{method="GET",route="/api/runs",status="401"\} (\S+)')
    for _ in range(6):
        status, text = ask(port, "GET /metrics")
        assert status == 200
        found = counted.search(text)
        assert found is not None and float(found[1]) == 20
    with open_store(database) as store:
        key = KeyStore(store, KeyHashing(pepper=SECRET)).create("ci", Role.AUDITOR, actor=SYSTEM)
    assert ask(port, "GET /api/runs", f"Authorization: Bearer {key.text}")[0] == 200
    _, text = ask(port, "GET /health", "X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9")
    assert "Strict-Transport-Security" not in text  # sent when a request came by HTTPS
    assert ask(port, "GET /health?" + "x" * 8_000)[0] == 200


def test_several_workers_need_a_secret_that_they_share(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_KEY", raising=False)
    monkeypatch.setenv("DATABASE_URL", database)
    result = CliRunner().invoke(main, ["serve", "--workers", "2"])
    assert result.exit_code == 1
    assert "SECRET_KEY is not set" in result.output


@pytest.mark.parametrize("workers", ["0", "-1", "65", "many"])
def test_a_number_of_workers_that_cannot_be(workers: str) -> None:
    result = CliRunner().invoke(main, ["serve", "--workers", workers])
    assert result.exit_code == 1
    assert "WORKERS" in result.output
