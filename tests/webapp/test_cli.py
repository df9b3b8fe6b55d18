"""The commands `users` and `dashboard`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from resume_engine.cli import main
from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from tests.provision.app_fixtures import SYSTEM
from tests.webapp.helpers import events
from webapp.accounts.store import AccountStore
from webapp.cli.address import address_of, dashboard_address
from webapp.logs import OneLineFormatter
from webapp.settings import Settings

Run = Callable[..., Result]


@pytest.fixture
def run(database: str) -> Run:
    """Run the command line on the database: `run("users", "list")`."""
    return lambda *words: CliRunner().invoke(main, [*words, "--database", database])


class TestUsers:
    """`resume-engine users ...`."""

    def test_add_prints_a_link_that_works_once(self, run: Run, database: str) -> None:
        result = run("users", "add", "Mia@Example.org", "--role", "admin", "--name", "Mia")
        assert result.exit_code == 0, result.output
        assert "mia@example.org is admin now" in result.output
        assert re.search(r"http://127\.0\.0\.1:8000/login/link/[\w-]{43}", result.output)
        with open_store(database) as store:
            mia = AccountStore(store).find("mia@example.org")
            assert mia is not None
            assert (mia.role, mia.display_name, mia.has_password) == (Role.ADMIN, "Mia", False)
            created, linked = events(store)
        assert (created.event_type, linked.event_type) == ("user.created", "user.link_created")
        assert (created.role, created.channel) == ("admin", "cli")
        assert created.actor

    def test_list(self, run: Run) -> None:
        assert "Nobody has an account yet." in run("users", "list").output
        run("users", "add", "mia@example.org")
        output = run("users", "list").output
        assert re.search(r"mia@example\.org +mia +operator +link only", output)

    def test_role_disable_enable(self, run: Run, database: str) -> None:
        run("users", "add", "mia@example.org", "--role", "auditor")
        assert "is operator now" in run("users", "role", "mia@example.org", "operator").output
        assert "is operator already" in run("users", "role", "mia@example.org", "operator").output
        assert "is disabled" in run("users", "disable", "mia@example.org").output
        assert "is disabled already" in run("users", "disable", "mia@example.org").output
        assert run("users", "link", "mia@example.org").exit_code == 1
        assert "may sign in again" in run("users", "enable", "mia@example.org").output
        with open_store(database) as store:
            kinds = [event.event_type for event in events(store)]
        assert kinds[2:] == ["user.role_changed", "user.disabled", "user.enabled"]

    def test_link(self, run: Run, database: str) -> None:
        run("users", "add", "mia@example.org")
        result = run("users", "link", "mia@example.org", "--address", "https://runs.example.org/")
        assert re.search(r"https://runs\.example\.org/login/link/[\w-]{43}", result.output)
        with open_store(database) as store:
            assert len(events(store, EventType.USER_LINK_CREATED)) == 2

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["add", "mia"], "is not an email address"),
            (["add", "otto@example.org"], "has an account already"),
            (["add", "mia@example.org", "--role", "runner"], "runner"),
            (["add", "mia@example.org", "--address", "runs"], "is not an address"),
            (["role", "mia@example.org", "admin"], "Nobody has the email"),
            (["role", "otto@example.org", "operator"], "last administrator"),
            (["disable", "otto@example.org"], "last administrator"),
            (["link", "\x1b[2Jx@y"], "Nobody has the email"),
        ],
    )
    def test_mistakes_are_sentences(self, run: Run, database: str, words: list[str], message: str) -> None:
        run("users", "add", "otto@example.org", "--role", "admin")
        with open_store(database) as store:
            before = len(events(store))
        result = run("users", *words)
        assert result.exit_code != 0
        assert message in result.output
        assert "Traceback" not in result.output
        assert "\x1b" not in result.output
        with open_store(database) as store:
            assert len(events(store)) == before

    def test_a_mistyped_file_is_not_created(self, tmp_path: Path) -> None:
        missing = tmp_path / "typo.db"
        result = CliRunner().invoke(main, ["users", "list", "--database", f"sqlite:///{missing}"])
        assert result.exit_code == 1
        assert not missing.exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Dashboard:
    """`resume-engine dashboard` in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.port = free_port()
        self._log = folder / "out.txt"
        command = [sys.executable, "-m", "resume_engine.cli", "dashboard", "--port", str(self.port), *words]
        with self._log.open("w") as out:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=out, stderr=out, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
        self._wait()

    @property
    def output(self) -> str:
        return self._log.read_text()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output
            try:
                if self.get("/health")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(self.output)

    def get(self, path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=20)


class TestDashboard:
    """`resume-engine dashboard`."""

    def test_on_any_database_it_prints_a_link_and_stops_when_told(
        self, tmp_path: Path, database: str
    ) -> None:
        server = Dashboard(tmp_path, "--database", database)
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+(/login/link/[\w-]{43})", server.output)
            assert found, server.output
            status, page = server.get(found.group(1))
            assert status == 200
            assert "Local administrator" in page
            assert server.get("/ready")[0] == 200
        finally:
            code = server.stop()
        assert code == 0, server.output
        assert server.output.endswith("Stopped.\n")

    def test_without_a_database_it_makes_one_and_lets_the_first_person_in(self, tmp_path: Path) -> None:
        server = Dashboard(tmp_path)
        try:
            assert "/login/link/" in server.output
            assert (tmp_path / "resume_engine.db").exists()
        finally:
            assert server.stop(signal.SIGINT) == 0
        with open_store(f"sqlite:///{tmp_path / 'resume_engine.db'}") as store:
            admin = AccountStore(store).list_people()[0]
            AccountStore(store).set_password(admin.user_id, "hash", actor=SYSTEM)
        again = Dashboard(tmp_path)
        try:
            assert "/login/link/" not in again.output
        finally:
            again.stop()

    def test_a_taken_port_is_a_sentence(self, database: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            result = CliRunner().invoke(main, ["dashboard", "--database", database, "--port", port])
        assert result.exit_code == 1
        assert f"Port {port} of 127.0.0.1 cannot be used" in result.output

    @pytest.mark.parametrize(
        ("environment", "message"),
        [
            ({"PORT": "http"}, "PORT is 'http'"),
            ({"SECRET_KEY": "short"}, "SECRET_KEY is too easy to guess"),
            ({"LOG_LEVEL": "loud"}, "LOG_LEVEL is 'loud'"),
            ({"DATABASE_URL": "mysql://x"}, "mysql is not supported"),
        ],
    )
    def test_a_bad_setting_stops_the_start(self, environment: dict[str, str], message: str) -> None:
        result = CliRunner().invoke(main, ["dashboard"], env=environment)
        assert result.exit_code == 1
        assert message in result.output

    def test_a_mistyped_file_is_not_created(self, tmp_path: Path) -> None:
        missing = tmp_path / "typo.db"
        result = CliRunner().invoke(main, ["dashboard", "--database", f"sqlite:///{missing}"])
        assert result.exit_code == 1
        assert not missing.exists()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("runs.internal", "http://runs.internal:8000"),
    ],
)
def test_addresses(host: str, address: str) -> None:
    assert address_of(Settings(host=host)) == address


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    assert dashboard_address(None) == "http://127.0.0.1:9000"


def test_nothing_forges_a_line_in_the_log() -> None:
    import logging

    record = logging.LogRecord("x", logging.INFO, "", 0, "from %s", ("a\r\nFAKE \x1b[2J\u202e",), None)
    assert OneLineFormatter("%(message)s").format(record) == "from a\\x0d\\x0aFAKE \\x1b[2J\\u202e"
