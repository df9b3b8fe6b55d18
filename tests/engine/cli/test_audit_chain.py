"""`resume-engine audit keygen|seal|verify`, with their exit codes."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from resume_engine.cli import main
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.guards import unguarded


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    address = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("DATABASE_URL", address)
    return address


@pytest.fixture
def store(url: str) -> Iterator[SqlCheckpointStore]:
    with open_store(url) as made:
        yield made


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["audit", *words])


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "audit.pem"
    assert run("keygen", str(path)).exit_code == 0
    monkeypatch.setenv("AUDIT_SIGNING_KEY_FILE", str(path))
    return path


def test_a_key_is_for_its_owner_alone_and_never_overwritten(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    again = run("keygen", str(key))
    assert again.exit_code == 1 and "cannot be written" in again.output
    assert key.read_bytes() == before
    assert "PUBLIC" in Path(f"{key}.pub").read_text()


def test_sealed_signed_and_verified_with_the_public_key(
    store: SqlCheckpointStore, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunFactory(store).every_state()
    anchor = tmp_path / "anchor.jsonl"
    sealed = run("seal", "--out", str(anchor))
    assert sealed.exit_code == 0 and "signed with the Ed25519 key" in sealed.output
    assert "Nothing was recorded" in run("seal").output
    assert json.loads(anchor.read_text())["number"] == 1
    monkeypatch.delenv("AUDIT_SIGNING_KEY_FILE")
    intact = run("verify", "--key", f"{key}.pub", "--against", str(anchor))
    assert (intact.exit_code, intact.output.partition(":")[0]) == (0, "INTACT"), intact.output
    assert run("verify").exit_code == 2


def test_tampering_is_exit_code_1_and_names_the_place(store: SqlCheckpointStore, key: Path) -> None:
    found = RunFactory(store).completed()
    run("seal")
    with unguarded(store) as conn:
        conn.execute(text("UPDATE step_records SET worker = 'mallory' WHERE sequence = 1"))
    for words in (["verify"], ["verify", "--run", found.run_id]):
        result = run(*words)
        assert result.exit_code == 1
        assert f"{found.run_id} #3: it is not what was recorded (expected " in result.output, result.output


def test_what_cannot_be_told_is_exit_code_2_and_says_what_to_do(store: SqlCheckpointStore) -> None:
    RunFactory(store).completed()
    result = run("verify")
    assert result.exit_code == 2 and "there is no checkpoint: run `resume-engine audit seal`" in result.output
    unsigned = run("seal")
    assert "NOT signed: set AUDIT_SIGNING_KEY_FILE" in unsigned.output
    assert run("verify").exit_code == 2


def test_a_secret_signs_when_there_is_no_key(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "0123456789abcdef0123456789abcdef")
    RunFactory(store).completed()
    assert "it detects accidents" in run("seal").output
    assert run("verify").exit_code == 0
    monkeypatch.setenv("SECRET_KEY", "another secret, 0123456789abcdef")
    assert run("verify").exit_code == 2


def test_what_cannot_be_read_is_exit_code_3(store: SqlCheckpointStore, key: Path, tmp_path: Path) -> None:
    RunFactory(store).completed()
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("{}")
    assert run("verify", "--against", str(nonsense)).exit_code == 3
    with store.writing() as conn:
        conn.execute(text("DROP TABLE audit_checkpoints"))
    unreadable = run("verify")
    assert unreadable.exit_code == 3 and "no such table: audit_checkpoints" in unreadable.output


UNREADABLE = {
    "a database that is not there": (["--database", "sqlite:///{folder}/nowhere.db"], "no database at"),
    "a file that is no database": (["--database", "sqlite:///{folder}/nonsense"], "not a database"),
    "a damaged database": (["--database", "sqlite:///{folder}/damaged.db"], "malformed"),
    "an empty file": (["--database", "sqlite:///{folder}/empty"], "resume-engine db upgrade"),
    "an older schema": (["--database", "sqlite:///{folder}/older.db"], "resume-engine db upgrade"),
    "a newer schema": (["--database", "sqlite:///{folder}/newer.db"], "Install the newer release"),
    "a PostgreSQL that is away": (["--database", "postgresql://127.0.0.1:1/runs"], "Check --database"),
    "no URL": (["--database", "nonsense"], "not a database URL"),
    "a key that is none": (["--key", "{folder}/nonsense"], "--key: {folder}/nonsense holds no Ed25519 key"),
    "a key that is not there": (["--key", "{folder}/nowhere"], "'--key'"),
    "checkpoints that are not there": (["--against", "{folder}/nowhere"], "'--against'"),
    "checkpoints that are none": (["--against", "{folder}/nonsense"], "nonsense holds no checkpoints"),
    "no checkpoint in the file": (["--against", "{folder}/empty"], "empty holds no checkpoints"),
    "an unknown run": (["--run", "nobody"], "Run not found: nobody"),
    "since no number": (["--since", "yesterday"], "'--since'"),
    "two questions at once": (["--run", "nobody", "--all"], "leave out --all"),
    "an unknown option": (["--everything"], "--everything"),
}


def _damaged(folder: Path) -> None:
    """Beside the database copies of it that cannot be read."""
    whole = (folder / "runs.db").read_bytes()
    (folder / "damaged.db").write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    (folder / "nonsense").write_bytes(b"\x89PNG\r\n" * 200)
    (folder / "empty").touch()
    for name, revision in (("older", "0002_gates_and_audit"), ("newer", "9999_not_yet")):
        (folder / f"{name}.db").write_bytes(whole)
        with closing(sqlite3.connect(folder / f"{name}.db")) as conn, conn:
            conn.execute("UPDATE alembic_version SET version_num = ?", [revision])


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_keeps_it_from_looking_is_no_tampering(url: str, key: Path, tmp_path: Path, what: str) -> None:
    with open_store(url) as store:
        RunFactory(store).completed()
    _damaged(tmp_path)
    words, reason = UNREADABLE[what]
    result = run("verify", *(word.format(folder=tmp_path) for word in words))
    assert result.exit_code == 3, result.output
    assert result.stdout == "" and reason.format(folder=tmp_path) in result.stderr, result.output
    with closing(sqlite3.connect(tmp_path / "empty")) as conn:
        assert conn.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_an_interrupted_verification_found_nothing(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ChainVerifier, "verify_all", interrupted)
    result = run("verify")
    assert result.exit_code == 3 and "Interrupted" in result.stderr


@pytest.mark.parametrize("words", [["--since", "9" * 20], ["--run", "\udcff"]])
def test_what_no_database_takes_is_no_answer(store: SqlCheckpointStore, words: list[str]) -> None:
    RunFactory(store).completed()
    result = run("verify", *words)
    assert result.exit_code == 3 and "There is no answer" in result.stderr


def test_a_checkpoint_that_is_not_there_yet_is_named_with_the_newest(
    store: SqlCheckpointStore, key: Path, tmp_path: Path
) -> None:
    RunFactory(store).completed()
    assert (
        "There is no checkpoint yet: run `resume-engine audit seal`" in run("verify", "--since", "1").stderr
    )
    anchor = tmp_path / "anchor.jsonl"
    run("seal", "--out", str(anchor))
    assert run("verify", "--since", "1").exit_code == 0
    beyond = run("verify", "--since", "99999")
    assert beyond.exit_code == 3 and beyond.stdout == ""
    assert beyond.stderr.startswith("Error: There is no checkpoint 99999: the newest is 1 of 2"), (
        beyond.stderr
    )
    with unguarded(store) as conn:
        conn.execute(text("DELETE FROM audit_checkpoints"))
    gone = run("verify", "--since", "1", "--against", str(anchor))
    assert gone.exit_code == 1  # somebody has taken it away
