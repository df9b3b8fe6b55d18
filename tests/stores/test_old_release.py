"""The published release 0.2.0 on a database that was upgraded: it is refused, and nothing is written."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from resume_engine.core.chain_report import Verdict
from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.run import RunStatus
from resume_engine.storage import audit_guards, schema_version, table_locks
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.guarded_tables import OLD_RELEASE, PREFIX
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import metadata
from resume_engine.storage.schema_version import KNOWN_REVISIONS
from resume_engine.storage.signing import NoKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.crash.scale import times
from tests.legacy_database import LEGACY_TRACES, rows_of, run_id
from tests.provision.published_release import without_us

BEFORE = "0003_control_plane"
OF_0_2_0 = re.compile("(runs|step_records)_(insert|default)|runs_update")
SCRIPT = Path(__file__).with_name("old_release.py")
INPUT = {"order": "A-17", "amount": 12.5, "name": "Zoë <b>"}


class OldProcess:
    """A process of 0.2.0 that has a database open."""

    def __init__(self, python: Path, url: str) -> None:
        self._process = subprocess.Popen(
            [str(python), str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=without_us(OLD_DATABASE=url),
        )
        assert self.answer() == {"version": "0.2.0"}

    def tell(self, call: str, of: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([call, of]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def ask(self, call: str, of: str) -> dict[str, Any]:
        self.tell(call, of)
        return self.answer()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def old_process(python: Path, url: str) -> Iterator[OldProcess]:
    process = OldProcess(python, url)
    try:
        yield process
    finally:
        process.close()


def upgraded(url: str) -> None:
    with open_store(url, check_schema=False) as store:
        store.upgrade_schema()


def make_new_runs(store: SqlCheckpointStore) -> None:
    """A run of each kind that an old process could do harm to, by this release."""
    engine = ResumeEngine(store)

    def failing(error: Exception) -> Any:
        def fail(*_: Any) -> dict[str, Any]:
            raise error

        return fail

    def done(*_: Any) -> dict[str, Any]:
        return {"done": 1}

    engine.start_run("billing", run_id="new-completed")
    engine.execute_workflow("new-completed", [("fetch", done)], initial_input=INPUT)
    for name, error, environment in (
        ("new-permanent", PermanentStepError("no such card"), "dev"),
        ("new-prod", TransientStepError("busy"), "prod"),
    ):
        engine.start_run("billing", run_id=name, environment=environment)
        with suppress(type(error)):
            engine.execute_workflow(name, [("fetch", done), ("charge", failing(error))], initial_input=INPUT)
    engine.start_run("billing", run_id="new-running")
    engine.execute_step("new-running", "fetch", 0, INPUT, done)


def everything(url: str) -> dict[str, Any]:
    return {table: rows_of(url, table) for table in metadata.tables}


WRITES = [
    ("start", "old-1"),
    ("start", "new-completed"),  # an id that is taken
    ("start prod", "old-2"),
    ("resume", run_id(2)),
    ("resume", run_id(5)),  # approved before the upgrade
    ("resume", run_id(13)),  # its process died
    ("resume", "new-running"),
    ("resume", "new-prod"),  # a gate that 0.2.0 does not know
    ("resume unchecked", "new-permanent"),
    ("execute", "new-completed"),
    ("append", "new-running"),  # a sequence that is taken
    ("append next", "new-running"),
    ("append", "of no run"),
    ("complete", "new-permanent"),
    ("complete", run_id(4)),
    ("forge gates", "new-prod"),
    ("approve", "new-permanent"),
    ("approve", run_id(3)),
    ("compensate", run_id(4)),
    ("replay", run_id(1)),
]


@pytest.mark.parametrize("opened", ["before", "after"])
def test_0_2_0_writes_nothing_to_an_upgraded_database(legacy_url: str, old_python: Path, opened: str) -> None:
    """Whether it had it open already, or opens it then."""
    if opened == "after":
        upgraded(legacy_url)
    with old_process(old_python, legacy_url) as old:
        if opened == "before":
            assert "error" not in old.ask("start", "0.2.0-own")
            upgraded(legacy_url)
        with open_store(legacy_url) as store:
            make_new_runs(store)
            before = everything(legacy_url)
            for call, of in WRITES:
                refused = old.ask(call, of)
                assert OLD_RELEASE in refused.get("words", ""), (call, of, refused)
                assert refused["effects"] == [], (call, of)
            assert everything(legacy_url) == before
            assert verify(store) == []
            assert ChainVerifier(store, key=NoKey()).verify_all().findings == []
            # It may go on reading what it wrote.
            assert {of: old.ask("trace", of)["found"] for of in LEGACY_TRACES} == LEGACY_TRACES


def test_a_step_that_0_2_0_was_within_is_not_recorded(legacy_url: str, old_python: Path) -> None:
    """Its effect cannot be taken back; this release makes it again with the same key."""
    with old_process(old_python, legacy_url) as old:
        upgraded(legacy_url)
        before = everything(legacy_url)
        refused = old.ask("step", run_id(13))
        assert OLD_RELEASE in refused["words"] and len(refused["effects"]) == 1
        assert everything(legacy_url) == before
    with open_store(legacy_url) as store:
        keys: list[str] = []

        def again(_: Any, key: str) -> dict[str, Any]:
            keys.append(key)
            return {}

        ResumeEngine(store).execute_step(run_id(13), "more", 7, INPUT, again)
        assert keys == refused["effects"]


def test_without_the_guards_0_2_0_does_all_of_it(legacy_url: str, old_python: Path) -> None:
    """The protection taken out: gates are passed, results are overwritten, and the audit knows nothing."""
    upgraded(legacy_url)
    with old_process(old_python, legacy_url) as old, open_store(legacy_url) as store:
        make_new_runs(store)
        with store.writing() as conn:
            audit_guards.drop(conn)
        assert "error" not in old.ask("start", "old-1")
        assert len(old.ask("resume", "new-prod")["effects"]) == 2, "nobody acknowledged it"
        assert "error" not in old.ask("complete", "new-permanent")
        run = store.get_run("new-permanent")
        assert run is not None and run.status is RunStatus.COMPLETED
        assert ChainVerifier(store, key=NoKey()).verify_all().verdict is not Verdict.INTACT
        with store.writing() as conn:
            audit_guards.create(conn)
        assert any("count their records wrongly" in finding for finding in verify(store))


def test_a_database_of_the_schema_before_gets_the_guards(legacy_url: str, old_python: Path) -> None:
    upgraded(legacy_url)
    with open_store(legacy_url) as store:
        make_new_runs(store)
        with store.writing() as conn:
            make_the_schema_before(conn)
        assert verify(store) == [f"the schema is at {BEFORE}, this release needs {KNOWN_REVISIONS[-1]}"]
        with old_process(old_python, legacy_url) as old:
            assert "error" not in old.ask("complete", "new-completed"), "so it was before"
            assert store.upgrade_schema() == (BEFORE, KNOWN_REVISIONS[-1])
            for call, of in (("complete", "new-permanent"), ("append next", "new-running"), ("start", "old")):
                assert OLD_RELEASE in old.ask(call, of)["words"]
        assert verify(store) == []


def make_the_schema_before(conn: Connection) -> None:
    """Take away what refuses 0.2.0: this release did not always have it."""
    for guard in audit_guards.guards(conn):
        if OF_0_2_0.search(guard.name):
            conn.execute(text(guard.unmake))
    conn.execute(text(f"UPDATE alembic_version SET version_num = '{BEFORE}'"))


def test_the_guards_of_the_schema_between_give_way_to_those_of_today(postgres_url: str) -> None:
    """They refused as much on PostgreSQL, under another name, and cost each step more."""
    between = f"{PREFIX}runs_update"
    with open_store(postgres_url) as store:
        with store.writing() as conn:
            make_the_schema_before(conn)
            conn.execute(
                text(
                    f"CREATE TRIGGER {between} AFTER UPDATE ON runs FOR EACH ROW "
                    f"EXECUTE FUNCTION {PREFIX}old_release()"
                )
            )
            conn.execute(text(f"UPDATE alembic_version SET version_num = '{KNOWN_REVISIONS[-2]}'"))
        assert store.upgrade_schema() == KNOWN_REVISIONS[-2:]
        assert verify(store) == []
        with store.reading() as conn:
            assert not conn.execute(text(f"SELECT 1 FROM pg_trigger WHERE tgname = '{between}'")).all()
        ResumeEngine(store).start_run("billing", run_id="goes on")


WORKERS = 3


def test_what_0_2_0_is_doing_while_the_database_is_upgraded(legacy_url: str, old_python: Path) -> None:
    """Everything it was told is recorded stays; what comes after is refused, and its run can go on."""
    acknowledged: list[list[Any]] = []
    olds = [OldProcess(old_python, legacy_url) for _ in range(WORKERS)]
    try:
        for number, old in enumerate(olds):
            old.tell("endless", f"w{number}")
            for _ in range(12):
                acknowledged.append(old.answer()["acknowledged"])
        upgraded(legacy_url)
        refusals = []
        for old in olds:
            while "acknowledged" in (told := old.answer()):
                acknowledged.append(told["acknowledged"])
            refusals.append(told)
    finally:
        for old in olds:
            old.close()
    assert [refused.get("words", "") for refused in refusals if OLD_RELEASE not in refused["words"]] == []
    with open_store(legacy_url) as store:
        with store.reading() as conn:
            query = "SELECT run_id, sequence, idempotency_key FROM step_records WHERE run_id LIKE 'w%'"
            recorded = {tuple(row) for row in conn.execute(text(query))}
        assert {tuple(told) for told in acknowledged} == recorded
        assert verify(store) == []
        assert ChainVerifier(store, key=NoKey()).verify_all().findings == []
        last = f"w0-{max(int(of[3:]) for of, *_ in acknowledged if of.startswith('w0-'))}"
        engine = ResumeEngine(store)
        steps = [("s", lambda *_: {})] * 5
        assert engine.resume(last, steps, initial_input={"n": 0}).status is RunStatus.COMPLETED


ROUNDS = times(3, 40)


def test_executors_of_the_schema_before_go_on_while_it_is_upgraded(legacy_url: str) -> None:
    """Two releases that chain: neither is refused, and none of them stands in the other's way."""
    upgraded(legacy_url)
    stop, done, problems = threading.Event(), [0] * WORKERS, []

    def work(number: int) -> None:
        with open_store(legacy_url, check_schema=False) as store:
            engine = ResumeEngine(store)
            while not stop.is_set():
                try:
                    run = engine.start_run("w")
                    for index in range(4):
                        engine.execute_step(run.run_id, "s", index, {"n": index}, lambda *_: {"out": 1})
                    engine.complete_run(run.run_id)
                except Exception as problem:
                    problems.append(problem)
                    return
                done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    with open_store(legacy_url) as store:
        for _ in range(ROUNDS):
            seen = sum(done)
            with store.writing() as conn:
                make_the_schema_before(conn)
            assert store.upgrade_schema() == (BEFORE, KNOWN_REVISIONS[-1])
            while sum(done) < seen + WORKERS and not problems:
                time.sleep(0.002)
        stop.set()
        for thread in threads:
            thread.join()
        assert problems == []
        assert verify(store) == []
        assert ChainVerifier(store, key=NoKey()).verify_all().findings == []


def meet(url: str) -> list[str]:
    """Upgrade beside an executor that holds the records and then wants the runs; return how it went wrong."""
    wrong: list[str] = []

    def upgrade() -> None:
        try:
            upgraded(url)
        except DBAPIError as problem:
            wrong.append(str(problem.orig))

    with open_store(url) as store:
        with store.writing() as conn:
            make_the_schema_before(conn)
        upgrading = threading.Thread(target=upgrade)
        try:
            with store.writing() as conn, store.reading() as looking:
                conn.execute(text("LOCK TABLE step_records IN ROW EXCLUSIVE MODE"))
                upgrading.start()
                waits = (
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'step_records'::regclass"
                )
                while not looking.execute(text(waits)).scalar_one():
                    time.sleep(0.002)
                conn.execute(text("LOCK TABLE runs IN ROW EXCLUSIVE MODE"))
        except DBAPIError as problem:
            wrong.append(str(problem.orig))
        upgrading.join()
    return wrong


def test_an_upgrade_gives_way_to_an_executor(postgres_url: str) -> None:
    assert meet(postgres_url) == []
    with open_store(postgres_url) as store:
        assert verify(store) == []


def test_an_upgrade_that_does_not_give_way_is_noticed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protection taken out: one of the two is ended by PostgreSQL."""
    monkeypatch.setattr(schema_version, "take_tables", lambda _: None)
    assert ["deadlock detected" in problem for problem in meet(postgres_url)] == [True]


def test_an_upgrade_gives_up_while_somebody_holds_the_tables(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_locks, "GIVE_UP_AFTER_SECONDS", 0.3)
    with open_store(postgres_url) as store:
        with store.writing() as conn:
            make_the_schema_before(conn)
        with store.writing() as conn:
            conn.execute(text("LOCK TABLE runs IN ROW EXCLUSIVE MODE"))
            with pytest.raises(OperationalError, match="lock timeout"):
                upgraded(postgres_url)
        upgraded(postgres_url)
        assert verify(store) == []
