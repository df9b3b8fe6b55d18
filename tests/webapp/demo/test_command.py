"""`resume-engine demo` as a newcomer runs it."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from click.testing import CliRunner

from resume_engine import ResumeEngine
from resume_engine.storage.open_store import open_store
from webapp.demo.command import demo

ROOT = Path(__file__).resolve().parents[3]
LINK = re.compile(r"^  (\w+) +\S.*?(http://\S+/login/link/\S+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what the command, called in this process, does to the log."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def read_until(process: subprocess.Popen[str], words: str, seconds: float) -> str:
    assert process.stdout is not None
    text, deadline = "", time.monotonic() + seconds
    while words not in text:
        line = process.stdout.readline()
        assert line and time.monotonic() < deadline, text
        text += line
    return text


@pytest.mark.slow
def test_the_demo_prints_links_that_sign_in_and_leaves_nothing_behind(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "resume_engine.cli", "demo", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": f"{ROOT / 'engine'}{os.pathsep}{ROOT}"},
    )
    try:
        text = read_until(process, "Stop with Ctrl+C", 120)
        links = LINK.findall(text)
        assert [role for role, _ in links] == ["operator", "admin", "auditor"]
        assert f"The demo is ready: http://127.0.0.1:{port}" in text
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        wait_for_server(port)
        with browser.open(links[0][1], timeout=20) as answer:
            page = answer.read().decode()
        token = re.search(r'name="csrf_token" value="([^"]+)"', page)
        assert "Ana Ruiz" in page and token is not None
        form = urllib.parse.urlencode({"csrf_token": token[1]}).encode()
        origin = {"Origin": f"http://127.0.0.1:{port}"}
        pressed = urllib.request.Request(links[0][1], form, origin, method="POST")
        with browser.open(pressed, timeout=20) as answer:
            assert answer.url == f"http://127.0.0.1:{port}/"
            assert answer.status == 200
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert "Stopped. The demo's database is removed." in rest
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def wait_for_server(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not start")


def test_a_port_in_use_is_found_out_before_the_filling() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(demo, ["--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1
    assert "Choose another one with --port" in result.output
    assert "Playing" not in result.output


def test_a_database_in_use_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'mine.db'}"
    with open_store(url) as store:
        ResumeEngine(store).start_run("orders")
    result = CliRunner().invoke(demo, ["--port", str(free_port()), "--database", url])
    assert result.exit_code == 1
    assert "is not empty" in result.output
