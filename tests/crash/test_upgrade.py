"""The upgrade of a database of 0.2.0, killed at every statement in turn, and by several processes at once."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.errors import SchemaOutdatedError
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import HEAD_REVISION
from resume_engine.storage.signing import NoKey
from resume_engine.storage.verification import verify
from tests.crash.broken import VARIABLE
from tests.crash.conftest import KINDS
from tests.crash.processes import KILLED, Processes
from tests.crash.scale import LONG, tell
from tests.legacy_database import LEGACY_DATABASE, LEGACY_TRACES, legacy_rows, load_into_postgres, rows_of
from tests.provision.postgres import Databases

OLD = "0.2.0 (without a version)"
DATES = {"created_at", "updated_at", "timestamp"}
DECISIONS = 7
MOMENTS = 6  # of the short version
AT_ONCE = 8


class Upgrade:
    """Databases of 0.2.0 of one kind, and processes that upgrade them."""

    def __init__(self, databases: Callable[[], Any], processes: Processes, path: Path) -> None:
        self.database = databases
        self.processes = processes
        self.path = path

    def start(self, url: str, *, broken: str = "", **job: Any) -> int:
        result = str(self.path / "results")
        return self.processes.start("upgrade", url=url, result=result, env={VARIABLE: broken}, **job)

    def results(self) -> list[dict[str, Any]]:
        """Return what the processes wrote since this was asked last."""
        path = self.path / "results"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def statements(self) -> int:
        """Return how many statements an upgrade takes."""
        with self.database() as url:
            assert self.processes.wait(self.start(url), 60) == 0, self.processes.said()
        [result] = self.results()
        assert result["found"] == [OLD, HEAD_REVISION]
        found: int = result["statements"]
        return found


@pytest.fixture(params=KINDS)
def upgrade(request: pytest.FixtureRequest, tmp_path: Path, session_processes: Processes) -> Upgrade:
    if request.param == "sqlite":
        return Upgrade(lambda: _file(tmp_path / "legacy.db"), session_processes, tmp_path)
    server: Databases = request.getfixturevalue("postgres_databases")
    return Upgrade(lambda: _on_server(server), session_processes, tmp_path)


@contextmanager
def _file(path: Path) -> Iterator[str]:
    shutil.copy(LEGACY_DATABASE, path)
    yield f"sqlite:///{path}"
    for end in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{end}").unlink(missing_ok=True)


@contextmanager
def _on_server(server: Databases) -> Iterator[str]:
    url = server.create_empty()
    load_into_postgres(url)
    yield url
    server.drop(url)


def assert_still_old(url: str) -> None:
    """Nothing at all has changed, and it is refused with the sentence that says what to do."""
    with pytest.raises(SchemaOutdatedError, match=r"0\.2\.0.*resume-engine db upgrade"):
        open_store(url)
    with open_store(url, check_schema=False) as store:
        assert set(inspect(store.engine).get_table_names()) == {"runs", "step_records"}
    for table in ("runs", "step_records"):
        assert undated(rows_of(url, table)) == undated(legacy_rows(table))


def assert_new(url: str) -> None:
    """It is of this release, whole and sound, and holds everything that 0.2.0 wrote."""
    with open_store(url) as store:
        assert verify(store) == []
        assert ChainVerifier(store, key=NoKey()).verify_all().findings == []
        engine = ResumeEngine(store)
        assert {of: engine.get_audit_log(of) for of in LEGACY_TRACES} == LEGACY_TRACES
        with store.reading() as conn:
            assert conn.execute(text("SELECT count(*) FROM decisions")).scalar_one() == DECISIONS
    for table in ("runs", "step_records"):
        before = legacy_rows(table)
        after = [{name: row[name] for name in before[0]} for row in rows_of(url, table)]
        assert undated(after) == undated(before)


def undated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what the databases keep in types of their own."""
    return [{name: value for name, value in row.items() if name not in DATES} for row in rows]


def moments(statements: int) -> list[int]:
    """Return the moments to kill at: before each statement, before COMMIT and after it; or some of them."""
    last = statements + 2
    step = 1 if LONG else max(1, last // MOMENTS)
    return sorted({*range(1, last + 1, step), last - 1, last})


def kill_at(upgrade: Upgrade, moment: int, committed: bool, broken: str = "") -> None:
    """Kill an upgrade; the database is the old one or the new one, and upgrading again makes it new."""
    with upgrade.database() as url:
        code = upgrade.processes.wait(upgrade.start(url, die_at=moment, broken=broken), 60)
        assert code == KILLED, f"moment {moment}: {code}\n{upgrade.processes.said()}"
        assert upgrade.results() == []
        if committed:
            assert_new(url)
        else:
            assert_still_old(url)
        with open_store(url, check_schema=False) as store:
            assert store.upgrade_schema() == (HEAD_REVISION if committed else OLD, HEAD_REVISION)
        assert_new(url)


def test_an_upgrade_killed_at_any_statement_has_not_begun_or_is_done(upgrade: Upgrade) -> None:
    statements = upgrade.statements()
    chosen = moments(statements)
    for moment in chosen:
        kill_at(upgrade, moment, committed=moment == statements + 2)
    tell(f"upgrade: {len(chosen)} kills at {statements} statements, before COMMIT and after it: 0 damaged")
    assert statements > 100


def test_an_upgrade_that_commits_in_its_middle_is_noticed(upgrade: Upgrade) -> None:
    """The protection taken out: one transaction around everything."""
    statements = upgrade.statements()
    kill_at(upgrade, 1, committed=False, broken="upgrade_in_pieces")
    with pytest.raises(AssertionError):
        kill_at(upgrade, statements + 1, committed=False, broken="upgrade_in_pieces")


def at_once(upgrade: Upgrade, url: str, **job: Any) -> list[int]:
    """Upgrade by several processes at once; return their exit codes."""
    start = upgrade.path / "start"
    with start.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        pids = [upgrade.start(url, wait_for=str(start), **job) for _ in range(AT_ONCE)]
        for pid in pids:
            upgrade.processes.wait_for(start.with_suffix(f".{pid}"))
    return [upgrade.processes.wait(pid, 120) for pid in pids]


def test_of_several_upgrades_at_once_one_is_killed_and_another_does_it(upgrade: Upgrade) -> None:
    half = upgrade.statements() // 2
    with upgrade.database() as url:
        codes = at_once(upgrade, url, die_at=half, dies_once=str(upgrade.path / "died"))
        assert sorted(codes) == [KILLED, *[0] * (AT_ONCE - 1)], upgrade.processes.said()
        found = sorted(result["found"] for result in upgrade.results())
        assert found == [[OLD, HEAD_REVISION], *[[HEAD_REVISION, HEAD_REVISION]] * (AT_ONCE - 2)]
        assert_new(url)


def test_an_upgrade_that_does_not_look_again_when_its_turn_comes_is_noticed(upgrade: Upgrade) -> None:
    """The protection taken out: those that waited do it all once more, and fail."""
    with upgrade.database() as url:
        codes = at_once(upgrade, url, broken="looked_before_its_turn")
        assert sorted(codes) != [0] * AT_ONCE
