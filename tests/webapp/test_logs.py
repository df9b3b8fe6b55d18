"""The log as programs read it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from flask import Flask

from resume_engine.core.permissions import Permission, Role
from tests.provision.app_fixtures import SYSTEM
from webapp.extensions import services
from webapp.logs import JsonFormatter, handler
from webapp.permissions import requires

logger = logging.getLogger("tests.logs")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged meanwhile, as JSON."""
    written, writing = io.StringIO(), handler("json")
    writing.setStream(written)
    logging.getLogger().addHandler(writing)
    yield written
    logging.getLogger().removeHandler(writing)


def entries(log: io.StringIO, name: str = "tests.logs") -> list[dict[str, str]]:
    """Return what was logged under a name; every line has to be JSON."""
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    return [entry for entry in found if entry["logger"] == name]


def test_request_run_and_actor_are_told(app: Flask, log: io.StringIO) -> None:
    @requires(Permission.RUNS_READ)
    def view(run_id: str) -> str:
        logger.warning("looked at")
        return "done"

    app.add_url_rule("/api/look/<run_id>", "look", view)
    key = services(app).keys.create("ci", Role.AUDITOR, actor=SYSTEM)
    answer = app.test_client().get("/api/look/r-1", headers={"Authorization": f"Bearer {key.text}"})
    assert answer.status_code == 200
    (entry,) = entries(log)
    assert entry["request_id"] == answer.headers["X-Request-Id"]
    assert entry["run_id"] == "r-1"
    assert entry["actor"] == key.key.actor.name
    assert (entry["level"], entry["message"]) == ("warning", "looked at")


def test_outside_a_request_nothing_is_made_up(log: io.StringIO) -> None:
    logger.warning("started")
    (entry,) = entries(log)
    assert set(entry) == {"at", "level", "logger", "message"}


@pytest.mark.parametrize("nasty", ["a\r\nb", "\x1b[2Jx", "a\u202eb", "a\u2028b", '"}\n{"level":"info"'])
def test_one_entry_is_one_line(log: io.StringIO, nasty: str) -> None:
    logger.warning("said %s", nasty)
    written = log.getvalue()
    assert written.count("\n") == 1, written
    assert written.isascii()
    assert "\x1b" not in written
    assert json.loads(written)["message"] == f"said {nasty}"


def test_half_of_a_pair_can_be_written() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "said \ud800", None, None)
    assert JsonFormatter().format(record).isascii()


def test_a_traceback_is_inside_the_line_and_secrets_are_masked(log: io.StringIO) -> None:
    try:
        raise ValueError("password=hunter2hunter2")
    except ValueError:
        logger.exception("failed with re_abcdefgh_%s", "aB3" * 14 + "x")
    written = log.getvalue()
    entry = json.loads(written)
    assert "ValueError" in entry["traceback"]
    assert "hunter2" not in written
    assert "aB3aB3" not in written
