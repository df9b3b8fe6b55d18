"""Known defects of release 0.2.0, one test each that fails on it. They must not come back."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import OutputNotSerializableError, ResumeBlockedError
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.resume_gates import get_resume_blockers
from resume_engine.core.run import RunStatus
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import failing, passing, steps
from tests.stores.changes import summary


def test_resume_kept_the_outputs_of_earlier_steps(engine: ResumeEngine) -> None:
    """0.2.0 lost them: the quickstart itself failed with KeyError on resume."""
    broken = [True]

    def publish(state: dict[str, Any], _key: str) -> dict[str, Any]:
        if broken.pop() if broken else False:
            raise ConnectionError("publisher is away")
        return {"ok": state["result"], "from": state["url"]}

    workflow = [
        ("fetch", lambda state, _key: {"data": f"page of {state['url']}"}),
        ("transform", lambda state, _key: {"result": state["data"].upper()}),
        ("publish", publish),
    ]
    run = engine.start_run("my_pipeline")
    with pytest.raises(ConnectionError):
        engine.execute_workflow(run.run_id, workflow, initial_input={"url": "x"})
    done = engine.resume(run.run_id, workflow, initial_input={"url": "x"})
    assert done.status is RunStatus.COMPLETED
    assert done.steps[-1].output_data == {"ok": "PAGE OF X", "from": "x"}


def test_resume_needs_no_initial_input(engine: ResumeEngine) -> None:
    """0.2.0 started the resumed part with whatever the caller passed, or nothing."""
    run_id = engine.start_run("billing").run_id
    with pytest.raises(TransientStepError):
        engine.execute_workflow(
            run_id, steps(3, fail_at=2, error=TransientStepError("x")), initial_input={"a": 1}
        )
    done = engine.resume(run_id, steps(3))
    assert done.steps[-1].input_data == {"a": 1, "out_0": 0, "out_1": 1}


def test_an_empty_output_is_kept_as_an_empty_output(engine: ResumeEngine) -> None:
    """0.2.0 stored it as null."""
    run_id = engine.start_run("billing").run_id
    engine.execute_step(run_id, "a", 0, {}, passing({}))
    found = engine.get_run_status(run_id)
    assert found is not None and found.steps[0].output_data == {}
    assert '"output_data":{}' in engine.get_audit_log(run_id)


class Statements:
    """Every statement that the one connection of a store in memory runs, whoever sends it."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self.seen: list[str] = []
        raw = store.engine.raw_connection()
        raw.driver_connection.set_trace_callback(self.seen.append)  # type: ignore[union-attr]
        raw.close()

    def taken(self) -> list[str]:
        """Return the statements since the last call, without the bounds of transactions.

        A trigger makes the driver report the write that fired it once more.
        """
        seen: list[str] = []
        for text in self.seen:
            is_echo = text.startswith(("INSERT", "UPDATE")) and seen[-1:] == [text]
            if not is_echo and not text.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
                seen.append(text)
        self.seen.clear()
        return seen


def test_a_step_does_not_read_the_whole_run() -> None:
    """0.2.0 read the run with all its steps again for every step."""
    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store, lease_seconds=600)
        statements = Statements(store)
        per_step: list[list[str]] = []

        def step(index: int) -> Any:
            def call(_input: dict[str, Any], _key: str) -> dict[str, Any]:
                per_step.append(statements.taken())
                return {}

            return (f"step_{index}", call)

        run_id = engine.start_run("billing").run_id
        engine.execute_workflow(run_id, [step(index) for index in range(60)])
        # The first entry holds what came before the first step.
        assert {len(taken) for taken in per_step[1:]} == {2}, (
            "an update of the run and an insert of the record"
        )
        for taken in per_step[1:]:
            assert not any("FROM step_records" in statement for statement in taken)


def test_single_steps_do_not_read_the_whole_run_either() -> None:
    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run_id = engine.start_run("billing").run_id
        statements = Statements(store)
        counts = []
        for index in range(40):
            engine.execute_step(run_id, f"step_{index}", index, {}, passing({}))
            taken = statements.taken()
            counts.append(len(taken))
            reads = [text for text in taken if "FROM step_records" in text]
            assert all("idempotency_key" in text and "LIMIT 1" in text for text in reads)
        assert set(counts) == {5}, "the run, the key, its intent, an update, an insert"


def test_the_library_keeps_the_gate_of_prod(engine: ResumeEngine) -> None:
    """0.2.0 left it to the service: the library resumed at once."""
    run_id = engine.start_run("billing", environment="prod").run_id
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, steps(2, fail_at=1, error=TransientStepError("x")))
    for call in (
        lambda: engine.resume(run_id, steps(2)),
        lambda: engine.execute_workflow(run_id, steps(2)),
        lambda: engine.execute_step(run_id, "step_1", 1, {}, passing({})),
    ):
        with pytest.raises(ResumeBlockedError, match="prod_resume_ack"):
            call()
    engine.ack_prod_resume(run_id, "olga@example.com")
    assert engine.resume(run_id, steps(2)).status is RunStatus.COMPLETED


def test_one_acknowledgement_opens_one_failure(engine: ResumeEngine) -> None:
    """In 0.2.0 one acknowledgement opened every later failure of the run."""
    run_id = engine.start_run("billing", environment="prod").run_id
    broken = steps(2, fail_at=1, error=TransientStepError("x"))
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, broken)
    engine.ack_prod_resume(run_id, "olga@example.com")
    with pytest.raises(TransientStepError):
        engine.resume(run_id, broken)
    with pytest.raises(ResumeBlockedError, match="prod_resume_ack"):
        engine.resume(run_id, steps(2))
    found = engine.get_run_status(run_id)
    assert found is not None and [b.failure_key for b in get_resume_blockers(found)] == ["1:2"]


def test_decisions_at_once_do_not_overwrite_each_other(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    """0.2.0 read, changed and wrote the metadata: of two decisions at once one was lost."""
    for number in range(10):
        run_id = engine.start_run("billing", run_id=f"run-{number}", environment="prod").run_id
        with pytest.raises(PermanentStepError):
            engine.execute_step(run_id, "a", 0, {}, failing(PermanentStepError("x")))
        together = threading.Barrier(2)

        def decide(call: Any, of: str = run_id, barrier: threading.Barrier = together) -> None:
            barrier.wait()
            call(of, "olga@example.com")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(decide, [engine.grant_human_approval, engine.ack_prod_resume]))
        assert {str(d.kind) for d in store.list_decisions(run_id)} == {"human_approval", "prod_resume_ack"}
        assert engine.get_resume_blockers(run_id) == []


def test_metadata_written_beside_a_decision_loses_neither(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PermanentStepError):
        engine.execute_step(run_id, "a", 0, {}, failing(PermanentStepError("x")))
    stale = engine.get_run_status(run_id)
    assert stale is not None
    engine.grant_human_approval(run_id, "olga@example.com")
    stale.metadata["mine"] = 1
    store.update_run(stale)
    found = engine.get_run_status(run_id)
    assert found is not None and found.metadata["mine"] == 1
    assert found.metadata["gates"]["human_approval"]["approved_by"] == "olga@example.com"
    assert (found.status, engine.get_resume_blockers(run_id)) == (RunStatus.PAUSED, [])


def test_an_output_that_json_cannot_hold_is_called_that(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    """0.2.0 found out behind the side effect and reported a permanent TypeError of the step itself."""
    run_id = engine.start_run("billing").run_id
    effects = []

    def charge(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        effects.append("charged")
        return {"connection": threading.Lock()}

    with pytest.raises(OutputNotSerializableError, match=f"Step 0 'charge' of run {run_id}"):
        engine.execute_step(run_id, "charge", 0, {}, charge)
    failure = summary(store, run_id).failure
    assert effects == ["charged"] and failure is not None
    assert failure.classification is FailureClassification.PARTIAL, "what was done must be undone first"
    assert failure.error_type == "OutputNotSerializableError"


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_crash_in_the_middle_of_a_step_leaves_a_trace(tmp_path: Path) -> None:
    """0.2.0 wrote nothing before a step had ended."""
    url = f"sqlite:///{tmp_path / 'x.db'}"

    def crash(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        os._exit(9)

    with open_store(url) as store:
        run_id = ResumeEngine(store).start_run("billing").run_id
    child = os.fork()
    if child == 0:
        with open_store(url) as store:
            ResumeEngine(store).execute_workflow(run_id, [("fetch", passing({"a": 1})), ("charge", crash)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with open_store(url) as store:
        [left] = summary(store, run_id).in_flight
        assert (left.step_index, left.step_name, left.attempt) == (1, "charge", 1)
        keys: list[str] = []

        def charge(_input: dict[str, Any], key: str) -> dict[str, Any]:
            keys.append(key)
            return {}

        done = ResumeEngine(store).resume(run_id, [("fetch", passing({})), ("charge", charge)])
        assert done.status is RunStatus.COMPLETED
        assert keys == [left.idempotency_key], "tried again with the key of the lost attempt"
        assert summary(store, run_id).in_flight == ()
