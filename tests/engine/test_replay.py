"""Replay: the same bytes every time, and no workflow but the recorded one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.differences import SHOWN
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ReplayDivergenceError
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.run import RunStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import failing, passing
from tests.guards import unguarded
from tests.stores.changes import summary

INPUT = {"order": 7, "flags": [True, None]}


def never(_input: dict[str, Any], _key: str) -> dict[str, Any]:
    raise AssertionError("a replay called a step")


NAMES = ("fetch", "charge", "notify")
UNCALLED = [(name, never) for name in NAMES]


def recorded(engine: ResumeEngine, *, fail: bool = False) -> str:
    """Return a run of three steps; with `fail` the second failed once."""
    run_id = engine.start_run("billing", run_id="run-1").run_id
    workflow = [(name, passing({f"out_{index}": {"z": index, "a": "ü"}})) for index, name in enumerate(NAMES)]
    if fail:
        broken = [workflow[0], (NAMES[1], failing(TransientStepError("x"))), workflow[2]]
        with pytest.raises(TransientStepError):
            engine.execute_workflow(run_id, broken, initial_input=INPUT)
        engine.resume(run_id, workflow)
    else:
        engine.execute_workflow(run_id, workflow, initial_input=INPUT)
    return run_id


@pytest.mark.parametrize("fail", [False, True])
def test_a_replay_gives_the_recorded_trace_and_calls_nothing(engine: ResumeEngine, fail: bool) -> None:
    run_id = recorded(engine, fail=fail)
    run, trace = engine.replay_run(run_id, UNCALLED, initial_input=INPUT)
    assert trace == engine.get_audit_log(run_id) == run.audit_trace()
    assert {engine.replay_run(run_id, UNCALLED)[1] for _ in range(20)} == {trace}


def test_a_replay_writes_nothing(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = recorded(engine)
    before = (store.get_run(run_id), summary(store, run_id), store.list_events(run_id))
    engine.replay_run(run_id, UNCALLED)
    engine.resume(run_id, UNCALLED, replay_mode=True)
    engine.execute_workflow(run_id, UNCALLED, replay_mode=True)
    assert (store.get_run(run_id), summary(store, run_id), store.list_events(run_id)) == before


def renamed() -> list[tuple[str, Any]]:
    return [("fetch", never), ("pay", never), ("notify", never)]


MUTANTS: dict[str, tuple[list[tuple[str, Any]], dict[str, Any] | None, str]] = {
    "reordered": (
        [UNCALLED[1], UNCALLED[0], UNCALLED[2]],
        None,
        "step 0 'fetch': the record has 'fetch', .* 'charge'\n\\+ charge\n  fetch\n- charge\n  notify",
    ),
    "renamed": (renamed(), None, "step 1 'charge': the record has 'charge', .* 'pay'\n.*- charge\n\\+ pay\n"),
    "removed": (UNCALLED[:2], None, "step 2 'notify': .* the workflow has no step\n.*- notify$"),
    "added": (
        [*UNCALLED, ("archive", never)],
        None,
        "step 3 'archive': the record has 3 steps, the workflow has 4\n.*\\+ archive$",
    ),
    "inserted": (
        [UNCALLED[0], ("check", never), *UNCALLED[1:]],
        None,
        "step 1 'charge': the record has 'charge', the workflow has 'check'\n  fetch\n\\+ check\n  charge",
    ),
    "changed input": (
        UNCALLED,
        {"order": 8, "flags": [True, None]},
        "another initial input .*\n- order: 7\n\\+ order: 8$",
    ),
    "changed type": (UNCALLED, {"order": "7", "flags": [True, None]}, "\n- order: 7\n\\+ order: '7'$"),
    "changed type of a flag": (
        UNCALLED,
        {"order": 7, "flags": [1, None]},
        r"\n- flags\[0\]: True\n\+ flags\[0\]: 1$",
    ),
    "missing input": (UNCALLED, {"order": 7}, r"'initial input': .*\n- flags: \[True, None\]$"),
    "additional input": (UNCALLED, {**INPUT, "more": 1}, r"'initial input': [^-]*\n\+ more: 1$"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_drift_is_refused_at_its_first_step(engine: ResumeEngine, mutant: str) -> None:
    workflow, initial_input, message = MUTANTS[mutant]
    run_id = recorded(engine)
    for call in (
        lambda: engine.replay_run(run_id, workflow, initial_input=initial_input),
        lambda: engine.resume(run_id, workflow, initial_input=initial_input, replay_mode=True),
    ):
        with pytest.raises(ReplayDivergenceError, match=f"(?s)Replay of run run-1 diverges at .*{message}"):
            call()


def test_a_changed_output_in_the_record_is_found(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = recorded(engine)
    with unguarded(store) as conn:
        conn.exec_driver_sql("UPDATE step_records SET output_json = '{\"out_0\": 9}' WHERE sequence = 0")
    with pytest.raises(
        ReplayDivergenceError,
        match=r"(?s)step 1 'charge': another input .*\n- [0-9a-f]{64} \(hash\)\n\+ [0-9a-f]{64} \(hash\)$",
    ):
        engine.replay_run(run_id, UNCALLED)


def test_secrets_are_masked_in_the_difference(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing", run_id="run-1").run_id
    before = {"api_key": "s3cret-one", "nested": {"password": "s3cret-two", "user": "olga"}}
    engine.execute_workflow(run_id, [("fetch", passing({}))], initial_input=before)
    after = {"api_key": "other", "nested": {"password": "other", "user": "ana"}}
    with pytest.raises(ReplayDivergenceError) as caught:
        engine.replay_run(run_id, UNCALLED[:1], initial_input=after)
    assert caught.value.diff == (
        "- api_key: •••• (masked)",
        "+ api_key: •••• (masked)",
        "- nested.password: •••• (masked)",
        "+ nested.password: •••• (masked)",
        "- nested.user: 'olga'",
        "+ nested.user: 'ana'",
    )
    assert (caught.value.step_index, caught.value.step_name) == (0, "initial input")
    assert "s3cret" not in str(caught.value)


def test_a_long_difference_is_cut(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing", run_id="run-1").run_id
    engine.execute_workflow(run_id, [("fetch", passing({}))], initial_input={"rows": list(range(50))})
    with pytest.raises(ReplayDivergenceError) as caught:
        engine.replay_run(run_id, UNCALLED[:1], initial_input={"rows": ["x" * 1_000] * 50})
    assert len(caught.value.diff) == 2 * SHOWN + 1 and caught.value.diff[-1] == "  and 38 more"
    assert len(str(caught.value)) < 4_000


def test_a_long_workflow_is_compared_briefly(engine: ResumeEngine) -> None:
    names = [f"step_{index}" for index in range(100)]
    run_id = engine.start_run("billing", run_id="run-1").run_id
    engine.execute_workflow(run_id, [(name, passing({})) for name in names])
    changed = [*names[:50], "other", *names[51:]]
    with pytest.raises(ReplayDivergenceError) as caught:
        engine.replay_run(run_id, [(name, never) for name in changed])
    assert caught.value.diff == (
        "  step_0",
        "  ... 48 steps",
        "  step_49",
        "- step_50",
        "+ other",
        "  step_51",
        "  ... 47 steps",
        "  step_99",
    )


# A run whose input was changed by name


def changed_input(engine: ResumeEngine, fail_at: int) -> str:
    """Return a run that failed at a step and was resumed with another input, as the caller asked by name."""
    run_id = engine.start_run("billing", run_id="run-1").run_id
    workflow = [(name, passing({f"out_{index}": index})) for index, name in enumerate(NAMES)]
    broken = list(workflow)
    broken[fail_at] = (NAMES[fail_at], failing(TransientStepError("x")))
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, broken, initial_input={"order": 7})
    engine.resume(run_id, workflow, initial_input={"order": 8}, allow_input_change=True)
    return run_id


@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_a_run_whose_input_was_changed_by_name_is_replayed(engine: ResumeEngine, fail_at: int) -> None:
    run_id = changed_input(engine, fail_at)
    for given in (None, {"order": 8}):
        assert engine.replay_run(run_id, UNCALLED, initial_input=given)[1] == engine.get_audit_log(run_id)


def test_an_input_that_changed_without_saying_so_is_found(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run_id = changed_input(engine, 1)
    with unguarded(store) as conn:
        conn.exec_driver_sql("DELETE FROM audit_events WHERE event_type = 'run.input_changed'")
    with pytest.raises(ReplayDivergenceError, match="step 0 'fetch': another input .*\n- order: 7\n"):
        engine.replay_run(run_id, UNCALLED)


def test_a_changed_input_does_not_excuse_a_lost_output(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run_id = changed_input(engine, 1)
    with unguarded(store) as conn:
        conn.exec_driver_sql("UPDATE step_records SET output_json = '{\"out_0\": 9}' WHERE sequence = 0")
    with pytest.raises(ReplayDivergenceError, match="step 1 'charge': another input"):
        engine.replay_run(run_id, UNCALLED)


def test_a_changed_key_in_the_record_is_found(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = recorded(engine)
    with unguarded(store) as conn:
        conn.exec_driver_sql(f"UPDATE step_records SET idempotency_key = '{'0' * 64}' WHERE sequence = 2")
    with pytest.raises(
        ReplayDivergenceError,
        match=r"step 2 'notify': another idempotency key than the recorded one\n- 0{64}\n\+ ",
    ):
        engine.replay_run(run_id, UNCALLED)


def test_a_gap_in_the_record_is_found(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    engine.execute_workflow(run_id, [(name, passing({})) for name in NAMES], start_index=1)
    with pytest.raises(ReplayDivergenceError, match="at step 0 .*no completed attempt"):
        engine.replay_run(run_id, UNCALLED)


def test_an_unfinished_run_is_replayed_as_far_as_it_went(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    broken = [("fetch", passing({})), ("charge", failing(TransientStepError("x"))), ("notify", passing({}))]
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, broken)
    run, trace = engine.replay_run(run_id, UNCALLED)
    assert run.status is RunStatus.FAILED and len(trace.splitlines()) == 4


def test_a_run_driven_step_by_step_is_replayed(engine: ResumeEngine) -> None:
    with engine.run("billing") as run:
        state: dict[str, Any] = dict(INPUT)
        for index, name in enumerate(NAMES):
            record = engine.execute_step(run.run_id, name, index, state, passing({f"out_{index}": index}))
            state |= record.output_data or {}
    assert engine.replay_run(run.run_id, UNCALLED)[1] == engine.get_audit_log(run.run_id)
    with pytest.raises(ReplayDivergenceError, match="the record has 3 steps, the workflow has 4"):
        engine.replay_run(run.run_id, [*UNCALLED, ("archive", never)])


_SCRIPT = """
import hashlib, sys
from resume_engine import ResumeEngine, SQLiteCheckpointStore
with SQLiteCheckpointStore(sys.argv[1]) as store:
    never = lambda state, key: 1 / 0
    steps = [(name, never) for name in ("fetch", "charge", "notify")]
    trace = ResumeEngine(store).replay_run("run-1", steps)[1]
print(hashlib.sha256(trace.encode()).hexdigest())
"""


def test_other_processes_give_the_same_bytes(tmp_path: Path) -> None:
    from resume_engine.storage.open_store import open_store

    url = f"sqlite:///{tmp_path / 'x.db'}"
    with open_store(url) as store:
        recorded(ResumeEngine(store), fail=True)
        wanted = hashlib.sha256(ResumeEngine(store).get_audit_log("run-1").encode()).hexdigest()
    surroundings = [
        {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "4242", "TZ": "America/St_Johns", "PYTHONUTF8": "0", "LC_ALL": "POSIX"},
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, url],
            env={**os.environ, **around, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for around in surroundings
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == [wanted] * 2
