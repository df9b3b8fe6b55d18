"""With encryption nothing of the payloads lies in the clear; without the key nothing is lost or let out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Text, event, select, update

from resume_engine.cli import main
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.errors import InvalidValueError, PayloadLockedError, PayloadUnreadableError
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError
from resume_engine.core.permissions import Role
from resume_engine.storage import key_rotation
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.encryption import KEYS_VARIABLE, EncryptedCodec, codec_from_environment
from resume_engine.storage.gate_queries import GateQueries
from resume_engine.storage.open_store import open_store
from resume_engine.storage.payload_codec import LOCKED_WORDS, PLAIN, SEALED_MARK, LockedText, PayloadCodec
from resume_engine.storage.run_page_queries import RunPageQueries
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.schema import metadata as schema
from resume_engine.storage.schema import runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_queries import StepQueries
from resume_engine.storage.verification import verify
from tests.provision.postgres import Databases

OLD, NEW = EncryptedCodec.generate_key(), EncryptedCodec.generate_key()
CANARY = "canary-7f3a"
OLGA = Actor(name="olga@example.com", role=Role.OPERATOR, channel=Channel.DASHBOARD)
STEPS = ("fetch", "charge", "ship")

Opener = Callable[..., SqlCheckpointStore]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def opened(url: str) -> Iterator[Opener]:
    """Open the same database with these keys; none means plain."""
    stores: list[SqlCheckpointStore] = []

    def open_it(*keys: str) -> SqlCheckpointStore:
        codec: PayloadCodec = EncryptedCodec(list(keys)) if keys else PLAIN
        stores.append(open_store(url, codec=codec))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


def workflow(*, fail: Exception | None) -> list[Any]:
    def step(name: str) -> Any:
        def run(data: dict[str, Any], key: str) -> dict[str, Any]:
            if name == "charge" and fail is not None:
                raise fail
            return {f"{name}_out": CANARY, "seen": sorted(data)}

        return run

    return [(name, step(name)) for name in STEPS]


def blocked_run(store: SqlCheckpointStore, run_id: str = "r1", error: Exception | None = None) -> str:
    """Make a run that stopped, with the canary in all that can hold data."""
    engine = ResumeEngine(store, owner="worker-1")
    run = engine.start_run("billing", run_id=run_id, metadata={"customer": CANARY})
    with suppress(Exception):
        engine.execute_workflow(
            run.run_id,
            workflow(fail=error or PartialStepError(f"half done for {CANARY}")),
            initial_input={"card": CANARY},
        )
    return run.run_id


def decided(store: SqlCheckpointStore, run_id: str) -> None:
    engine = ResumeEngine(store, owner="worker-1")
    engine.execute_compensation(run_id, lambda data, key: {"undone": CANARY})
    engine.resume(run_id, workflow(fail=None))


def bytes_on_disk(url: str) -> bytes:
    path = Path(url.removeprefix("sqlite:///"))
    return b"".join(found.read_bytes() for found in sorted(path.parent.glob(path.name + "*")))


def test_nothing_lies_in_the_clear(url: str, opened: Opener) -> None:
    store = opened(OLD)
    decided(store, blocked_run(store))
    engine = ResumeEngine(store)
    blocked_run(store, "r2", PermanentStepError(f"refused {CANARY}"))
    with suppress(Exception):
        engine.decide("r2", "human_approval", OLGA, note=f"checked {CANARY}", result={"a": CANARY})
    engine.grant_human_approval("r2", "olga", note=f"asked {CANARY}")
    blocked_run(store, "r3")
    engine.record_compensation("r3", result={"refund": CANARY}, note=CANARY)
    run = engine.start_run("single", metadata={"c": CANARY})
    engine.execute_step(run.run_id, "only", 0, {"in": CANARY}, lambda data, key: {"out": CANARY})
    run.metadata["more"] = CANARY
    store.update_run(run)
    found = bytes_on_disk(url)
    assert b"billing" in found and b"PartialStepError" in found, "what lists need stays plain"
    assert found.count(CANARY.encode()) == 0
    assert Path(url.removeprefix("sqlite:///") + "-wal").stat().st_size > 0, "the log was looked at as well"


def test_it_reads_back_whole(opened: Opener) -> None:
    store = opened(OLD)
    run_id = blocked_run(store)
    decided(store, run_id)
    run = store.get_run(run_id)
    assert run is not None and run.metadata["customer"] == CANARY
    assert run.steps[0].input_data == {"card": CANARY}
    failed = run.steps[1]
    assert CANARY in str(failed.error_message) and CANARY in str(failed.error_traceback)
    assert run.metadata["gates"]["compensations"]["1:1"]["output"] == {"undone": CANARY}
    assert [e.payload for e in store.list_events(run_id) if e.event_type == "gate.compensated"]


def test_trace_and_keys_do_not_depend_on_encryption(tmp_path: Path) -> None:
    traces = []
    for number, codec in enumerate((PLAIN, EncryptedCodec([OLD]))):
        with open_store(f"sqlite:///{tmp_path / str(number)}.db", codec=codec) as store:
            decided(store, blocked_run(store))
            traces.append(ResumeEngine(store).get_audit_log("r1"))
    assert traces[0] == traces[1]


def test_a_run_goes_on_across_the_change_to_encryption(opened: Opener) -> None:
    plain = opened()
    run_id = blocked_run(plain)
    before = plain.get_run(run_id)
    store = opened(OLD)
    decided(store, run_id)
    after = store.get_run(run_id)
    assert before is not None and after is not None
    assert after.steps[: len(before.steps)] == before.steps
    retried = next(s for s in after.steps if s.is_completed and s.step_name == "charge")
    assert retried.idempotency_key == before.steps[1].idempotency_key


def test_pages_show_what_they_did(opened: Opener) -> None:
    store = opened(OLD)
    run_id = blocked_run(store)
    summary = RunQueries(store).load_head(run_id)
    assert summary is not None and summary.summary.failure is not None
    assert summary.summary.failure.message == f"half done for {CANARY}"
    view = StepQueries(store).load_step_view(run_id, 1)
    assert view is not None and json.loads(view.input_preview)["card"] == CANARY
    assert view.input_size == len(view.input_preview)
    assert StepQueries(store).load_step_json(run_id, 0, "output") == json.dumps(
        {"fetch_out": CANARY, "seen": ["card"]}
    )
    page = RunPageQueries(store).load(run_id)
    assert page is not None and json.loads(page.metadata_text) == {"customer": CANARY}
    case = GateQueries(store).oldest_waiting()
    assert case is not None and case.last_output is not None and CANARY in case.last_output
    assert CANARY in RunPageQueries(store).trace_start(run_id, limit=5)[0]


def test_causes_are_told_apart_by_their_type(opened: Opener) -> None:
    store = opened(OLD)
    for number in range(3):
        blocked_run(store, f"r{number}")
    head = RunQueries(store).load_head("r0")
    assert head is not None
    causes = RunQueries(store).failure_causes(head.summary.created_at.replace(year=2000))
    assert [(c.error_type, c.message_start, c.count) for c in causes] == [("PartialStepError", "", 3)]


# Without the key


def test_without_the_key_a_resume_says_what_is_missing(opened: Opener) -> None:
    sealed = opened(OLD)
    waiting = blocked_run(sealed, "waiting")
    failed = blocked_run(sealed, "failed", ConnectionError("away"))
    for keys in ((), (NEW,)):
        engine = ResumeEngine(opened(*keys))
        calls: list[str] = []

        def note(data: dict[str, Any], key: str, calls: list[str] = calls) -> dict[str, Any]:
            calls.append(key)
            return {}

        acts: dict[str, Callable[[ResumeEngine], object]] = {
            "start": lambda e: e.start_run("w"),
            "resume": lambda e: e.resume(failed, [(name, note) for name in STEPS]),
            "step": lambda e: e.execute_step(failed, "charge", 1, {}, note),
            "compensation": lambda e: e.execute_compensation(waiting, note),
            "words": lambda e: e.record_compensation(waiting, note="done"),
            "run": lambda e: e.get_run_status(failed),
            "trace": lambda e: e.get_audit_log(failed),
        }
        for name, act in acts.items():
            with pytest.raises(PayloadLockedError, match=KEYS_VARIABLE):
                act(engine)
                pytest.fail(name)
        assert calls == [], "no step runs whose output could not be recorded"


def test_a_plain_run_beside_sealed_ones_is_not_written_without_the_key(opened: Opener) -> None:
    plain = ResumeEngine(opened())
    run = plain.start_run("w", run_id="plain")
    blocked_run(opened(OLD))
    engine = ResumeEngine(opened())
    with pytest.raises(PayloadLockedError, match=KEYS_VARIABLE):
        engine.execute_step(run.run_id, "s", 0, {}, lambda data, key: pytest.fail("was called"))


def test_without_the_key_pages_still_work(opened: Opener) -> None:
    run_id = blocked_run(opened(OLD))
    store = opened()
    assert store.is_locked
    head = RunQueries(store).load_head(run_id)
    assert head is not None and head.summary.failure is not None
    assert head.summary.failure.message == LOCKED_WORDS
    assert head.metadata == {"encrypted": LOCKED_WORDS}
    view = StepQueries(store).load_step_view(run_id, 1)
    assert view is not None and view.error_type == "PartialStepError" and view.error_message == LOCKED_WORDS
    assert json.loads(view.input_preview) == {"encrypted": LOCKED_WORDS}
    assert RunPageQueries(store).load(run_id) is not None
    assert RunPageQueries(store).trace_start(run_id, limit=5)
    assert GateQueries(store).oldest_waiting() is not None
    assert AuditQueries(store).list_events(EventFilter())[0]


def test_a_decision_without_words_needs_no_key_and_loses_nothing(opened: Opener) -> None:
    run_id = blocked_run(opened(OLD), error=PermanentStepError(f"refused {CANARY}"))
    engine = ResumeEngine(opened())
    engine.decide(run_id, "human_approval", OLGA)
    run = opened(OLD).load_summary(run_id)
    assert run is not None and run.failure is not None and run.blocked_by == ()
    assert run.failure.message == f"refused {CANARY}"


def test_a_locked_text_written_back_is_the_sealed_one() -> None:
    sealed = EncryptedCodec([OLD]).encode_text(CANARY)
    locked = PLAIN.decode_text(sealed)
    assert isinstance(locked, LockedText) and locked == LOCKED_WORDS
    assert PLAIN.encode_text(locked) == sealed == EncryptedCodec([NEW]).encode_text(locked)


@pytest.mark.parametrize(
    "text", ["$fernet1$", "$fernet1$deadbeef$x", "$plain1$", "$plain1$$fernet1$x", "$", ""]
)
def test_texts_that_look_sealed_read_back(text: str) -> None:
    for codec in (PLAIN, EncryptedCodec([OLD])):
        assert codec.decode_text(codec.encode_text(text)) == text


def test_damage_is_noticed(opened: Opener) -> None:
    store = opened(OLD)
    run_id = blocked_run(store)
    with store.writing() as conn:
        text = conn.execute(
            select(step_records.c.input_json).where(step_records.c.sequence == 0)
        ).scalar_one()
        middle = len(text) // 2
        broken = text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]
        conn.execute(update(step_records).where(step_records.c.sequence == 0).values(input_json=broken))
    with pytest.raises(PayloadUnreadableError, match="damaged or changed"):
        store.get_run(run_id)


# Keys


def test_keys_come_from_the_environment() -> None:
    assert codec_from_environment({}) is PLAIN
    codec = codec_from_environment({KEYS_VARIABLE: f" {NEW}, {OLD},"})
    assert isinstance(codec, EncryptedCodec)
    assert codec.unseal(EncryptedCodec([OLD]).seal("x")) == "x"
    assert codec.seal("x").startswith(EncryptedCodec([NEW]).mark)


def test_a_bad_key_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidValueError, match="key 2 is no key") as caught:
        codec_from_environment({KEYS_VARIABLE: f"{OLD},hunter2"})
    assert "hunter2" not in str(caught.value) and OLD not in str(caught.value)
    with pytest.raises(InvalidValueError, match="at least one key"):
        EncryptedCodec([])


def test_plain_databases_never_load_the_cryptography_package(url: str) -> None:
    script = (
        "import sys; from resume_engine.storage.open_store import open_store\n"
        f"open_store({url!r}).close(); print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_rotation_seals_everything_anew(url: str, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rotation, "ROWS_PER_BATCH", 3)
    plain = opened()
    decided(plain, blocked_run(plain, "r1"))
    assert CANARY.encode() in bytes_on_disk(url)
    decided(opened(OLD), blocked_run(opened(OLD), "r2"))
    trace = ResumeEngine(opened(OLD)).get_audit_log("r1")
    rotating = opened(NEW, OLD)
    assert any("rotate-keys" in finding for finding in verify(rotating))
    assert key_rotation.rotate_keys(rotating) > 10
    rotating.scrub()
    assert key_rotation.rotate_keys(rotating) == 0
    assert not verify(rotating)
    assert CANARY.encode() not in bytes_on_disk(url)
    only_new = opened(NEW)
    assert ResumeEngine(only_new).get_audit_log("r1") == trace
    assert only_new.get_run("r2") is not None
    assert opened(OLD).is_locked


def test_an_interrupted_rotation_goes_on(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rotation, "ROWS_PER_BATCH", 2)
    store = opened(OLD)
    for number in range(5):
        blocked_run(store, f"r{number}")
    rotating = opened(NEW, OLD)
    total = key_rotation.count_unsealed(rotating)
    writes = 0

    def pull_the_plug(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        nonlocal writes
        writes += statement.startswith("UPDATE")
        if writes == 8:
            raise RuntimeError("power cut")

    event.listen(rotating.engine, "before_cursor_execute", pull_the_plug)
    with pytest.raises(RuntimeError):
        key_rotation.rotate_keys(rotating)
    event.remove(rotating.engine, "before_cursor_execute", pull_the_plug)
    assert 0 < (left := key_rotation.count_unsealed(rotating)) < total
    assert ResumeEngine(rotating).get_audit_log("r0"), "both keys are readable in between"
    assert key_rotation.rotate_keys(rotating) == left
    assert opened(NEW).get_run("r4") is not None


def test_rotation_needs_every_old_key(opened: Opener) -> None:
    blocked_run(opened(OLD))
    with pytest.raises(PayloadLockedError, match="needs the key"):
        key_rotation.rotate_keys(opened(NEW))
    with pytest.raises(InvalidValueError, match=KEYS_VARIABLE):
        key_rotation.rotate_keys(opened())


def test_every_column_that_can_hold_data_is_sealed() -> None:
    """A new text column has to be added to the rotation, or to this list with a reason."""
    sealed = {(s.table.name, column.name) for s in key_rotation._TABLES for column in s.columns}
    names_only = {
        ("user_sessions", "data_json"),  # the session's own form secret
        ("runs", "workflow_json"),  # names of steps
        ("audit_checkpoints", "signature"),
        ("stored_answers", "body"),  # short-lived; no payload is ever answered to a POST
        ("runs", "in_flight_json"),  # names, keys and times of steps
    }
    texts = {
        (table.name, column.name)
        for table in schema.sorted_tables
        for column in table.columns
        if type(column.type) is Text
    }
    assert texts - names_only == sealed


def test_the_command_rotates(url: str, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked_run(opened())
    new = CliRunner().invoke(main, ["db", "generate-key"]).output.strip()
    refused = CliRunner().invoke(main, ["db", "rotate-keys", "--database", url])
    assert refused.exit_code == 1 and KEYS_VARIABLE in refused.output
    monkeypatch.setenv(KEYS_VARIABLE, new)
    done = CliRunner().invoke(main, ["db", "rotate-keys", "--database", url])
    assert done.exit_code == 0, done.output
    assert "sealed with the newest key" in done.output
    with open_store(url) as store, closing(store.engine.raw_connection()) as raw:
        texts = [row[0] for row in raw.cursor().execute(str(select(runs.c.metadata_json)))]
    assert texts and all(text.startswith(SEALED_MARK) for text in texts)
    assert CANARY.encode() not in bytes_on_disk(url)


def test_postgres_is_sealed_too(postgres_databases: Databases) -> None:
    """Nothing in any column of any table, before and after a rotation from plain to sealed."""
    address = postgres_databases.create_migrated()
    with open_store(address, codec=PLAIN) as plain:
        decided(plain, blocked_run(plain, "r1"))
        assert _cells_with(plain, CANARY)
    with open_store(address, codec=EncryptedCodec([OLD])) as store:
        assert key_rotation.rotate_keys(store) > 5
        decided(store, blocked_run(store, "r2"))
        ResumeEngine(store).decide(
            blocked_run(store, "r3"), "compensation", OLGA, note=CANARY, result={"a": CANARY}
        )
        assert not _cells_with(store, CANARY)
        assert store.scrub() is not None
        view = StepQueries(store).load_step_view("r2", 1)
        assert view is not None and view.error_message == f"half done for {CANARY}"
        assert RunPageQueries(store).load("r2") is not None and GateQueries(store).load_case("r3") is not None
    with open_store(address, codec=PLAIN) as locked:
        assert locked.is_locked
        assert RunPageQueries(locked).load("r2") is not None
    postgres_databases.drop(address)


def _cells_with(store: SqlCheckpointStore, text: str) -> list[tuple[str, str]]:
    with store.reading() as conn:
        return [
            (table.name, name)
            for table in schema.sorted_tables
            for row in conn.execute(select(table))
            for name, value in row._mapping.items()
            if text in str(value)
        ]
