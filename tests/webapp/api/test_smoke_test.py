"""`resume-engine smoke-test --url`: the small workflow against a server."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from werkzeug.serving import make_server

from resume_engine.cli import main
from resume_engine.core.permissions import Role
from resume_engine.storage import http_transport
from tests.provision.app_fixtures import SYSTEM
from webapp.extensions import services

smoke_test = importlib.import_module("resume_engine.cli.smoke_test")  # its name is also that of the command


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """The API of `app`, served."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    thread.join(10)
    server.server_close()


def run(url: str, key: str | None) -> Result:
    words = ["smoke-test", "--url", url, *(["--key", key] if key else [])]
    return CliRunner(env={"ORCHESTRATEOS_API_KEY": None}).invoke(main, words)


def test_all_well(app: Flask, url: str) -> None:
    key = services(app).keys.create("smoke", Role.OPERATOR, actor=SYSTEM)
    result = run(url, key.text)
    assert result.exit_code == 0, result.output
    assert result.output.count("ok  ") == 6
    assert "All well" in result.output
    assert key.text not in result.output


def test_without_an_http_client_it_says_what_to_install(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("pip install 'resume_engine[remote]'")

    monkeypatch.setattr(http_transport, "_http_client", missing)
    result = run(url, "a key")
    assert result.exit_code == 1 and "pip install 'resume_engine[remote]'" in result.output


def test_what_is_wrong_is_said(app: Flask, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_test, "RETRY_SECONDS", 0.1)
    runner = services(app).keys.create("runner", Role.RUNNER, actor=SYSTEM)
    for given, key, message in (
        (url, None, "401 the key is wrong: Send an API key"),
        (url, "re_abcdefgh_" + "x" * 43, "This key is not known here"),
        (url, runner.text, "403 needs operator: The role of this key does not allow it"),
        (f"{url}/nowhere", runner.text, "does not know /start_run (404)"),
        ("http://127.0.0.1:9/api", runner.text, "is unreachable for 0.1 s"),
        (url, "ключ\n", "characters that cannot be sent"),
        ("http://[::1", runner.text, "is not an address"),
        ("runs.example.org", runner.text, "is not an address"),
    ):
        result = run(given, key)
        assert result.exit_code != 0, given
        assert message in result.output, result.output
        assert "Traceback" not in result.output
