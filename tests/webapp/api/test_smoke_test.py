"""`resume-engine smoke-test --url`: the small workflow against a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from werkzeug.serving import make_server

from resume_engine.cli import main
from resume_engine.core.permissions import Role
from tests.provision.app_fixtures import SYSTEM
from webapp.extensions import services


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
    assert result.output.count("ok  ") == 5
    assert "All well" in result.output
    assert key.text not in result.output


def test_what_is_wrong_is_said(app: Flask, url: str) -> None:
    runner = services(app).keys.create("runner", Role.RUNNER, actor=SYSTEM)
    for given, key, message in (
        (url, None, "POST /start_run answered 401 instead of 200: Send an API key"),
        (url, "re_abcdefgh_" + "x" * 43, "This key is not known here"),
        (url, runner.text, "answered 403 instead of 200: The role of this key does not allow it"),
        (f"{url}/nowhere", runner.text, "answered 404"),
        ("http://127.0.0.1:9/api", runner.text, "does not answer"),
        (url, "ключ\n", "characters that cannot be sent"),
        ("http://[::1", runner.text, "is not an address"),
        ("runs.example.org", runner.text, "is not an address"),
    ):
        result = run(given, key)
        assert result.exit_code != 0, given
        assert message in result.output, result.output
        assert "Traceback" not in result.output
