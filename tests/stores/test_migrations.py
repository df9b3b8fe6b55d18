"""Schema: from nothing and from 0.2.0 to the newest, on both databases."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text, update

from resume_engine import audit_verifier
from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.errors import (
    InputMismatchError,
    ResumeBlockedError,
    SchemaOutdatedError,
    SchemaTooNewError,
)
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, RunStatus
from resume_engine.storage import schema
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.compliance_export import compliance_export
from resume_engine.storage.migrations.legacy_0_2_0 import UNKEYED
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema_version import KNOWN_REVISIONS
from resume_engine.storage.signing import NoKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.legacy_database import (
    LEGACY_DATABASE,
    LEGACY_TRACES,
    alembic_config,
    legacy_rows,
    run_id,
)

INPUT = {"order": "A-17", "amount": 12.5, "name": "Zoë <b>"}


def steps(calls: list[tuple[str, dict[str, Any]]] | None = None) -> list[tuple[str, Any]]:
    def output(name: str, index: int) -> Any:
        def step(state: dict[str, Any], _key: str) -> dict[str, Any]:
            if calls is not None:
                calls.append((name, state))
            return {f"out_{index}": index}

        return step

    return [(name, output(name, index)) for index, name in enumerate(("fetch", "charge", "notify"))]


@pytest.fixture
def upgraded(legacy_url: str) -> Iterator[SqlCheckpointStore]:
    """A database of 0.2.0, upgraded and opened."""
    with open_store(legacy_url, check_schema=False) as store:
        assert store.upgrade_schema() == ("0.2.0 (without a version)", schema.HEAD_REVISION)
    with open_store(legacy_url) as store:
        yield store


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


def drift(engine: Engine) -> list[Any]:
    """Return what autogenerate would change to make the database what `schema.metadata` says."""
    with engine.connect() as conn:
        options = {"compare_type": True, "compare_server_default": False, "include_object": _is_comparable}
        return list(compare_metadata(MigrationContext.configure(conn, opts=options), schema.metadata))


def _is_comparable(item: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
    # An index for PostgreSQL alone is not expected in SQLite.
    return kind != "index" or name != "ix_runs_run_id_pattern"


# From nothing


def test_the_newest_revision_is_the_one_of_the_folder() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert scripts.get_heads() == [schema.HEAD_REVISION]
    assert [script.revision for script in scripts.walk_revisions()][::-1] == list(KNOWN_REVISIONS)


def test_an_empty_database_becomes_what_the_schema_says(empty_url: str) -> None:
    with open_store(empty_url) as store:
        assert drift(store.engine) == []
        assert verify(store) == []


def test_the_drift_check_sees_a_missing_column(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'x.db'}") as store:
        with store.writing() as conn:
            conn.execute(text("ALTER TABLE runs DROP COLUMN started_by"))
        assert drift(store.engine) != []
        assert verify(store) == ["column of runs is missing: started_by"]


def test_opening_again_changes_nothing(empty_url: str) -> None:
    open_store(empty_url).close()
    with open_store(empty_url) as store:
        assert store.upgrade_schema() == (schema.HEAD_REVISION, schema.HEAD_REVISION)


# From 0.2.0


def test_a_database_of_0_2_0_is_refused_until_it_is_upgraded(legacy_url: str) -> None:
    with pytest.raises(SchemaOutdatedError, match=r"0\.2\.0.*resume-engine db upgrade"):
        open_store(legacy_url)


def test_an_upgraded_database_has_the_schema_of_a_new_one(upgraded: SqlCheckpointStore) -> None:
    assert drift(upgraded.engine) == []
    assert verify(upgraded) == []


def test_no_row_of_0_2_0_is_lost_or_changed(upgraded: SqlCheckpointStore) -> None:
    for table in ("runs", "step_records"):
        before = legacy_rows(table)
        with upgraded.reading() as conn:
            columns = ", ".join(before[0])
            after = conn.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1")).mappings().all()
        dates = {"created_at", "updated_at", "timestamp"}
        assert [{k: v for k, v in row.items() if k not in dates} for row in after] == [
            {k: v for k, v in row.items() if k not in dates} for row in before
        ]


def test_times_are_kept_to_the_microsecond(upgraded: SqlCheckpointStore) -> None:
    for row in legacy_rows("runs"):
        summary = upgraded.load_summary(row["run_id"])
        assert summary is not None
        assert summary.created_at.strftime("%Y-%m-%d %H:%M:%S.%f") == row["created_at"]


@pytest.mark.parametrize("of", sorted(LEGACY_TRACES))
def test_traces_are_byte_identical(upgraded_sqlite: SqlCheckpointStore, of: str) -> None:
    assert ResumeEngine(upgraded_sqlite).get_audit_log(of) == LEGACY_TRACES[of]


def test_traces_are_byte_identical_on_both_databases(upgraded: SqlCheckpointStore) -> None:
    engine = ResumeEngine(upgraded)
    assert {of: engine.get_audit_log(of) for of in LEGACY_TRACES} == LEGACY_TRACES


@pytest.fixture(scope="module")
def upgraded_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlCheckpointStore]:
    """One upgraded copy, for tests that only read."""
    path = tmp_path_factory.mktemp("legacy") / "legacy.db"
    shutil.copy(LEGACY_DATABASE, path)
    with open_store(f"sqlite:///{path}", check_schema=False) as store:
        store.upgrade_schema()
        yield store


BLOCKED_BY: dict[int, tuple[GateAction, ...]] = {
    1: (),
    2: (),
    3: (GateAction.HUMAN_APPROVAL,),
    4: (GateAction.COMPENSATION,),
    5: (),
    6: (),
    7: (),
    8: (),
    9: (GateAction.PROD_RESUME_ACK,),
    10: (GateAction.PROD_RESUME_ACK,),  # acknowledged for an earlier failure
    11: (),
    13: (),
    14: (GateAction.PROD_RESUME_ACK,),  # an unknown environment is treated like prod
    15: (),
}


@pytest.mark.parametrize(("number", "actions"), BLOCKED_BY.items())
def test_gates_are_carried_over(
    upgraded_sqlite: SqlCheckpointStore, number: int, actions: tuple[GateAction, ...]
) -> None:
    summary = upgraded_sqlite.load_summary(run_id(number))
    assert summary is not None
    assert summary.blocked_by == actions


def test_decisions_are_carried_over(upgraded: SqlCheckpointStore) -> None:
    found = {
        number: [
            (d.failure_key, d.kind, d.actor, d.note, d.result, d.step_sequence)
            for d in upgraded.list_decisions(run_id(number))
        ]
        for number in BLOCKED_BY
    }
    olga = "olga@example.com"
    ack = DecisionKind.PROD_RESUME_ACK
    assert {number: decided for number, decided in found.items() if decided} == {
        5: [("1:1", DecisionKind.HUMAN_APPROVAL, olga, "quota raised", None, None)],
        6: [("1:1", DecisionKind.COMPENSATION, "recorded by 0.2.0", None, {"mail_recalled": True}, 2)],
        7: [("1:1", DecisionKind.COMPENSATION, "recorded by 0.2.0", "by hand", {"refund_id": "r-1"}, None)],
        8: [("1:1", ack, olga, "checked the ledger", None, None)],
        9: [("1:1", DecisionKind.HUMAN_APPROVAL, olga, None, None, None)],
        10: [("1:1", ack, olga, "checked the ledger", None, None)],
        15: [(UNKEYED, ack, olga, "checked the ledger", None, None)],
    }


def test_clients_of_0_2_0_see_the_decisions_where_they_were(upgraded_sqlite: SqlCheckpointStore) -> None:
    def gates(number: int) -> Any:
        run = upgraded_sqlite.get_run(run_id(number))
        assert run is not None
        return run.metadata.get("gates")

    assert gates(5)["human_approval"]["failure_key"] == "1:1"
    assert gates(5)["human_approval"]["granted"] is True
    assert gates(6)["compensations"]["1:1"]["output"] == {"mail_recalled": True}
    assert gates(7)["compensations"]["1:1"]["result"] == {"refund_id": "r-1"}
    assert gates(8)["prod_resume_ack"]["acknowledged_by"] == "olga@example.com"
    assert gates(2) is None


@pytest.mark.parametrize("number", [2, 5, 6, 7, 8, 13])
def test_runs_of_0_2_0_are_resumed_with_their_state(upgraded: SqlCheckpointStore, number: int) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    run = ResumeEngine(upgraded).resume(run_id(number), steps(calls), initial_input=INPUT)
    assert run.status is RunStatus.COMPLETED
    assert [name for name, _ in calls] == ["charge", "notify"]
    assert calls[0][1] == {**INPUT, "out_0": 0, "text": "naïve ✓"}
    assert calls[1][1] == {**INPUT, "out_0": 0, "text": "naïve ✓", "out_1": 1}


@pytest.mark.parametrize("number", [3, 4, 9, 10, 14])
def test_closed_gates_of_0_2_0_stay_closed(upgraded: SqlCheckpointStore, number: int) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    engine = ResumeEngine(upgraded)
    with pytest.raises(ResumeBlockedError):
        engine.resume(run_id(number), steps(calls), initial_input=INPUT)
    assert calls == []
    for blocker in engine.get_resume_blockers(run_id(number)):
        {
            "compensation": lambda: engine.record_compensation(run_id(number)),
            "human_approval": lambda: engine.grant_human_approval(run_id(number), "olga@example.com"),
            "prod_resume_ack": lambda: engine.ack_prod_resume(run_id(number), "olga@example.com"),
        }[blocker.required_action]()
    assert engine.resume(run_id(number), steps(), initial_input=INPUT).status is RunStatus.COMPLETED


def test_another_initial_input_is_refused_for_a_run_of_0_2_0(upgraded_sqlite: SqlCheckpointStore) -> None:
    with pytest.raises(InputMismatchError, match=run_id(2)):
        ResumeEngine(upgraded_sqlite).resume(run_id(2), steps(), initial_input={"order": "B-1"})


def test_the_counters_of_a_carried_run(upgraded_sqlite: SqlCheckpointStore) -> None:
    summary = upgraded_sqlite.load_summary(run_id(10))
    assert summary is not None and summary.failure is not None
    assert (summary.steps_completed, summary.resume_from_index, summary.next_sequence) == (1, 1, 3)
    assert (summary.failure.key, summary.failure.attempts) == ("1:2", 2)
    assert summary.environment is Environment.PROD
    completed = upgraded_sqlite.load_summary(run_id(1))
    assert completed is not None
    assert completed.finished_at is not None and completed.failure is None


def test_copies_made_by_replays_of_0_2_0_are_kept_apart(upgraded: SqlCheckpointStore) -> None:
    """The keys of the copied records belong to the runs they were copied from."""
    original = upgraded.get_run(run_id(1))
    assert original is not None
    for step in original.steps:
        found = upgraded.get_step_by_idempotency_key(step.idempotency_key)
        assert found is not None and found.timestamp == step.timestamp
    with upgraded.reading() as conn:
        marked = conn.execute(text("SELECT count(*) FROM step_records WHERE legacy_duplicate <> 0"))
        assert marked.scalar_one() == 8  # 3 and 1 of equal sequence in one, 4 in the other


# Other releases, other processes


def test_a_newer_schema_is_refused(empty_url: str) -> None:
    with open_store(empty_url) as store, store.writing() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '0099_from_the_future'"))
    with pytest.raises(SchemaTooNewError, match=r"0099_from_the_future.*Install the newer release"):
        open_store(empty_url)
    with (
        open_store(empty_url, check_schema=False) as store,
        pytest.raises(SchemaTooNewError, match="0099_from_the_future"),
    ):
        store.upgrade_schema()


def test_a_failed_upgrade_leaves_the_database_as_it_was(
    legacy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resume_engine.storage.migrations import legacy_0_2_0

    def fail(*_: Any) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(legacy_0_2_0, "_carry_run", fail)
    with open_store(legacy_url, check_schema=False) as store:
        with pytest.raises(RuntimeError, match="power cut"):
            store.upgrade_schema()
        assert set(inspect(store.engine).get_table_names()) == {"runs", "step_records"}
        monkeypatch.undo()
        assert store.upgrade_schema()[1] == schema.HEAD_REVISION
        assert verify(store) == []


def _upgrade(url: str, results: Any) -> None:
    try:
        with open_store(url, check_schema=False) as store:
            results.put(store.upgrade_schema())
    except Exception as error:
        results.put((type(error).__name__, str(error)))


def _open(url: str, results: Any) -> None:
    try:
        with open_store(url) as store:
            results.put(("opened", store.load_summary("none")))
    except Exception as error:
        results.put((type(error).__name__, str(error)))


def in_processes(target: Any, url: str, count: int = 4) -> list[Any]:
    # Forked: the processes differ in their connections, which is all that counts here, and start at once.
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=target, args=(url, results)) for _ in range(count)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    return found


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_four_processes_upgrade_at_once(legacy_url: str) -> None:
    found = in_processes(_upgrade, legacy_url)
    head = schema.HEAD_REVISION
    assert sorted(found) == sorted([("0.2.0 (without a version)", head), *[(head, head)] * 3])
    with open_store(legacy_url) as store:
        assert verify(store) == []
        assert len(store.list_decisions(run_id(5))) == 1


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_four_processes_open_an_empty_database_at_once(empty_url: str) -> None:
    assert in_processes(_open, empty_url) == [("opened", None)] * 4


def test_what_0_2_0_recorded_joins_the_chain_whole(upgraded: SqlCheckpointStore) -> None:
    """No row stands outside; decisions of 0.2.0 get the event that later ones have."""
    report = ChainVerifier(upgraded, key=NoKey()).verify_all()
    assert report.findings == [] and report.streams == len(legacy_rows("runs")) + 1
    with upgraded.reading() as conn:
        left = conn.execute(text("SELECT count(*) FROM step_records WHERE chain_seq IS NULL")).scalar()
        told = text("SELECT payload_json FROM audit_events WHERE event_type = 'audit.chain_started'")
        found = json.loads(conn.execute(told).scalar_one())
        decided = conn.execute(text("SELECT count(*) FROM decisions")).scalar()
    assert left == 0
    assert found == {
        "runs": len(legacy_rows("runs")),
        "step_records": len(legacy_rows("step_records")),
        "events": decided,
    }


def test_a_message_of_0_2_0_that_no_other_database_would_hold_is_no_tampering(
    tmp_path: Path,
) -> None:
    """SQLite kept NUL in the messages of that release; digests are of what every database accepts."""
    path = tmp_path / "legacy.db"
    shutil.copyfile(LEGACY_DATABASE, path)
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("UPDATE step_records SET error_message = 'a' || char(0) || 'b' WHERE status = 'failed'")
    url = f"sqlite:///{path}"
    with open_store(url, check_schema=False) as store:
        store.upgrade_schema()
    with open_store(url) as store:
        assert ChainVerifier(store, key=NoKey()).verify_all().findings == []
        with store.reading() as conn:
            failed = conn.execute(text("SELECT DISTINCT run_id FROM step_records WHERE status = 'failed'"))
            run_ids = failed.scalars().all()
        for run_id in run_ids:
            export = tmp_path / "export.json"
            export.write_text("".join(compliance_export(store, run_id)), encoding="utf-8")
            assert audit_verifier.verify(str(export), None, {})[0] > 0


OF_OLD_RUNS: list[dict[str, Any]] = [
    {"status": status, "blocked_by": None} for status in ("failed", "paused", "pending", "running")
]
NO_FAILURE = {
    f"failure_{name}": None
    for name in ("step_index", "step_name", "sequence", "classification", "error_type", "message")
}


@pytest.mark.parametrize(
    "values", [*OF_OLD_RUNS, *(values | NO_FAILURE for values in OF_OLD_RUNS[:2])], ids=str
)
def test_gates_of_runs_of_0_2_0_are_not_opened_by_hand(
    upgraded: SqlCheckpointStore, values: dict[str, Any]
) -> None:
    with upgraded.reading() as conn:
        query = "SELECT run_id FROM runs WHERE blocked_by = 'human_approval' AND status = 'failed'"
        closed = conn.execute(text(query)).scalars().all()
    assert closed
    for one in closed:
        with upgraded.writing() as conn:
            statement = update(schema.runs).where(schema.runs.c.run_id == one)
            conn.execute(statement.values({**values, "version": schema.runs.c.version + 1}))
    found = ChainVerifier(upgraded, key=NoKey()).verify_all().findings
    assert {f.stream for f in found} == set(closed)
    assert all("who opened it" in f.problem for f in found)


def test_a_run_of_0_2_0_that_was_left_running_may_be_called_failed(legacy_url: str) -> None:
    """The migration took its last failure for one that its executor would try again."""
    engine = create_engine(legacy_url)
    with engine.begin() as conn:
        conn.execute(text("UPDATE runs SET status = 'running' WHERE status = 'failed'"))
    engine.dispose()
    with open_store(legacy_url, check_schema=False) as store:
        store.upgrade_schema()
    with open_store(legacy_url) as store:
        assert ChainVerifier(store, key=NoKey()).verify_all().findings == []
        for row in legacy_rows("runs"):
            run = store.get_run(row["run_id"])
            if run is not None and run.status is RunStatus.RUNNING:
                run.status = RunStatus.FAILED
                store.update_run(run)
        assert ChainVerifier(store, key=NoKey()).verify_all().findings == []


def test_a_run_of_0_2_0_without_records_has_no_entry(legacy_url: str) -> None:
    engine = create_engine(legacy_url)
    with engine.begin() as conn:
        run_ids = conn.execute(text("SELECT run_id FROM runs WHERE status = 'completed'")).scalars().all()
        conn.execute(text("DELETE FROM step_records WHERE run_id = :id"), {"id": run_ids[0]})
    engine.dispose()
    with open_store(legacy_url, check_schema=False) as store:
        store.upgrade_schema()
    with open_store(legacy_url) as store:
        assert ChainVerifier(store, key=NoKey()).verify_all().findings == []


def _with_another_failure(legacy_url: str, of: str, classification: str) -> None:
    """Let a run of 0.2.0 have failed at a later step too: that release went on behind a closed gate."""
    engine = create_engine(legacy_url)
    with engine.begin() as conn:
        [row] = [r for r in legacy_rows("step_records") if r["run_id"] == of and r["status"] == "failed"][:1]
        highest = max(r["sequence"] for r in legacy_rows("step_records") if r["run_id"] == of)
        row |= {"id": 90_001, "step_name": "later", "step_index": 7, "idempotency_key": "7" * 64}
        row |= {"sequence": highest + 1, "failure_classification": classification}
        names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
        conn.execute(text(f"INSERT INTO step_records ({names}) VALUES ({marks})"), row)
    engine.dispose()


def test_a_run_that_0_2_0_let_go_on_behind_a_gate_is_no_tampering(legacy_url: str) -> None:
    failed = [r for r in legacy_rows("step_records") if r["failure_classification"] == "permanent"]
    runs_of = {r["run_id"]: r["status"] for r in legacy_rows("runs")}
    of = next(r["run_id"] for r in failed if runs_of[r["run_id"]] == "failed")
    _with_another_failure(legacy_url, of, "transient")
    with open_store(legacy_url, check_schema=False) as store:
        store.upgrade_schema()
    with open_store(legacy_url) as store:
        found = store.load_summary(of)
        assert found is not None and found.failure is not None and found.blocked_by == ()
        assert ChainVerifier(store, key=NoKey()).verify_all().findings == []
