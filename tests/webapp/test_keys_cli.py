"""The command `keys`."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from resume_engine.cli import main
from resume_engine.core.audit import EventType
from resume_engine.storage.open_store import open_store
from tests.webapp.helpers import events
from webapp.keys.records import KeyHashing, KeyRefusedError
from webapp.keys.store import KeyStore

Run = Callable[..., Result]
SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def run(database: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line on the database: `run("list")`."""
    monkeypatch.setenv("SECRET_KEY", SECRET)
    return lambda *words: CliRunner().invoke(main, ["keys", *words, "--database", database])


def refused(database: str, key: str, pepper: str | None = SECRET) -> str | None:
    """Return why a key is refused, None if it works."""
    with open_store(database) as store:
        try:
            KeyStore(store, KeyHashing(pepper=pepper)).authenticate(key)
        except KeyRefusedError as problem:
            return problem.reason
    return None


def test_a_key_alone_is_on_standard_output(run: Run, database: str) -> None:
    result = run("create", "claims-runner", "--environment", "dev", "--expires", "2099-01-31")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"re_[a-z0-9]{8}_[\w-]{43}\n", result.stdout)
    assert "acts as runner in dev, until 2099-01-31 00:00:00Z" in result.stderr
    assert refused(database, result.stdout.strip()) is None
    assert refused(database, result.stdout.strip(), pepper="another") == "foreign"
    with open_store(database) as store:
        (event,) = events(store, EventType.KEY_CREATED)
    assert (event.channel, event.role) == ("cli", "admin")


def test_without_a_lasting_secret_the_key_still_works_for_every_server(
    run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    key = run("create", "claims-runner").stdout.strip()
    assert [refused(database, key, pepper) for pepper in (None, SECRET)] == [None, None]


def test_list_and_revoke(run: Run, database: str) -> None:
    assert "There is no key that works." in run("list").output
    key = run("create", "ci", "--role", "operator", "--expires", "never").stdout.strip()
    key_id = key.split("_")[1]
    assert re.search(rf"{key_id} +ci +operator +any +live +never +never", run("list").output)
    assert key not in run("list").output
    stopped = run("revoke", key_id)  # asks, and nobody answers
    assert stopped.exit_code == 1
    assert refused(database, key) is None
    assert "is revoked: its next request is refused" in run("revoke", key_id, "--yes").output
    assert refused(database, key) == "revoked"
    assert "Nothing was changed" in run("revoke", key_id, "--yes").output
    assert key_id not in run("list").output
    assert "revoked" in run("list", "--all").output


def test_rotate(run: Run, database: str) -> None:
    old = run("create", "ci").stdout.strip()
    result = run("rotate", old.split("_")[1], "--grace", "2h")
    new = result.stdout.strip()
    assert [refused(database, key) for key in (old, new)] == [None, None]
    assert "ends" in result.stderr
    assert f"ending, then {new.split('_')[1]}" in run("list").output
    newest = run("rotate", new.split("_")[1], "--grace", "0m").stdout.strip()
    assert [refused(database, key) for key in (new, newest)] == ["expired", None]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create", ""], "Give the key a name"),
        (["create", "taken"], "has this name already"),
        (["create", "x", "--role", "emperor"], "emperor"),
        (["create", "x", "--environment", "moon"], "moon"),
        (["create", "x", "--expires", "soon"], "is no end"),
        (["create", "x", "--expires", "2001-01-01"], "over already"),
        (["rotate", "abcdefgh"], "There is no key abcdefgh"),
        (["rotate", "abcdefgh", "--grace", "31d"], "30 more days"),
        (["rotate", "abcdefgh", "--grace", "long"], "no span of time"),
        (["revoke", "\x1b[2J", "--yes"], "There is no key"),
    ],
)
def test_mistakes_are_sentences(run: Run, words: list[str], message: str) -> None:
    run("create", "taken")
    result = run(*words)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
