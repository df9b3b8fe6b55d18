"""Write a file of `golden_traces/`: runs as a release recorded them, with the traces they must always give.

    python tests/data/make_golden_traces.py          # with this release; never changes a file that is there
    python tests/data/make_golden_traces.py 0.2.0    # from resume_engine_0_2_0.db, which 0.2.0 itself wrote

A file is written once for each release whose records look different, and never again: what a release recorded
does not change any more.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

HERE = Path(__file__).parent
FOLDER = HERE / "golden_traces"
NAMES_0_2_0 = ("fetch", "charge", "notify", "archive")
# Of run 11 of that database 0.2.0 recorded what its resume made of it: a state without earlier outputs.
RUNS_0_2_0 = (1, 2, 3, 4, 6, 7, 9, 10, 13, 15)
INPUT = {
    "order": "A-17",
    "amount": 12.5,
    "big": 2**70,
    "name": "Zoë <b>\u2028 ✓ 🜚",
    "nested": {"z": [1, {"b": None, "a": True}], "": [], "1": {}},
}

State = dict[str, Any]


@dataclass(frozen=True)
class Address:
    """A value that JSON lacks."""

    street: str
    since: date


def output(value: State) -> Callable[[State, str], State]:
    return lambda _state, _key: value


def fail(error: Exception) -> Callable[[State, str], State]:
    def call(_state: State, _key: str) -> State:
        raise error

    return call


def case(names: list[str], trace: str, run: State, initial_input: Any, steps_total: int | None) -> State:
    return {
        "workflow": names,
        "initial_input": initial_input,
        "steps_total": steps_total,
        "run": run,
        "trace": trace,
        "sha256": hashlib.sha256(trace.encode()).hexdigest(),
    }


def write(release: str, cases: list[State]) -> None:
    path = FOLDER / f"{release}.json"
    if path.exists():
        raise SystemExit(f"{path} is there; what {release} recorded does not change any more")
    FOLDER.mkdir(exist_ok=True)
    path.write_text(json.dumps({"release": release, "cases": cases}, indent=1) + "\n", encoding="utf-8")


def from_0_2_0() -> list[State]:
    traces = json.loads((HERE / "resume_engine_0_2_0_traces.json").read_text(encoding="utf-8"))
    with sqlite3.connect(HERE / "resume_engine_0_2_0.db") as database:
        database.row_factory = sqlite3.Row
        return [_case_0_2_0(database, f"0200{n:04d}-0000-4000-8000-000000000000", traces) for n in RUNS_0_2_0]


def _case_0_2_0(database: sqlite3.Connection, run_id: str, traces: dict[str, str]) -> State:
    """Return a run in the shape that 0.2.0's `to_dict` gave it."""
    row = dict(database.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone())
    records = database.execute("SELECT * FROM step_records WHERE run_id = ? ORDER BY sequence", (run_id,))
    steps = [dict(record) for record in records]
    for step in steps:
        del step["id"], step["run_id"]
        step["input_data"] = json.loads(step.pop("input_json"))
        text = step.pop("output_json")
        step["output_data"] = None if text is None else json.loads(text)
        step["timestamp"] = step["timestamp"].replace(" ", "T") + "+00:00"
    run = {
        "run_id": run_id,
        "workflow_name": row["workflow_name"],
        "status": row["status"],
        "metadata": json.loads(row["metadata_json"]),
        "created_at": row["created_at"].replace(" ", "T") + "+00:00",
        "updated_at": row["updated_at"].replace(" ", "T") + "+00:00",
        "steps": steps,
    }
    count = 4 if run_id.startswith("02000001") else 3
    return case(list(NAMES_0_2_0[:count]), traces[run_id], run, None, None)


class Maker:
    """Makes runs of this release, at fixed times, so that the file does not depend on when it is made."""

    def __init__(self) -> None:
        from resume_engine.core.engine import ResumeEngine
        from resume_engine.storage.open_store import open_store

        self.store = open_store("sqlite:///:memory:")
        self.engine = ResumeEngine(self.store, owner="golden")
        self.cases: list[State] = []

    def start(self, number: int, **options: Any) -> str:
        run_id = f"0300{number:04d}-0000-4000-8000-000000000000"
        return self.engine.start_run("billing", run_id=run_id, **options).run_id

    def keep(self, run_id: str, names: list[str]) -> None:
        from resume_engine.core.codec import as_json

        run, summary = self.store.get_run(run_id), self.store.load_summary(run_id)
        assert run is not None and summary is not None
        initial_input = as_json(self.store.load_initial_input(run_id))
        trace = self.engine.get_audit_log(run_id)
        self.cases.append(case(names, trace, run.to_dict(), initial_input, summary.steps_total))

    def make(self) -> list[State]:
        self.plain()
        self.values()
        self.retried()
        self.rolled_back()
        self.changed()
        self.step_by_step()
        return self.cases

    def plain(self) -> None:
        names = ["fetch", "charge", "archive", "notify"]
        outputs: list[State] = [{"rows": [3, 1]}, {"paid": True, "order": "A-18"}, {}, {"text": "naïve ✓"}]
        run_id = self.start(1, metadata={"customer": "Zoë"})
        steps = [(name, output(value)) for name, value in zip(names, outputs, strict=True)]
        self.engine.execute_workflow(run_id, steps, initial_input=INPUT)
        self.keep(run_id, names)

    def values(self) -> None:
        kept = {
            "at": datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
            "day": date(2026, 3, 29),
            "length": timedelta(days=1, microseconds=1),
            "amount": Decimal("12.50"),
            "id": UUID(int=7),
            "path": PurePosixPath("a/b"),
            "raw": b"\x00\xff",
            "address": Address("Hauptstraße 1", date(2020, 2, 29)),
        }
        run_id = self.start(2)
        steps = [("load", output({"seen": kept})), ("check", output({"ok": True}))]
        self.engine.execute_workflow(run_id, steps, initial_input={**INPUT, **kept})
        self.keep(run_id, ["load", "check"])

    def retried(self) -> None:
        from resume_engine.core.failure_classifier import PartialStepError, TransientStepError

        run_id = self.start(3, environment="staging")
        names = ["fetch", "charge", "notify"]
        for error in (
            TransientStepError("gateway timed out"),
            PartialStepError("mail sent, row not written"),
        ):
            steps = [("fetch", output({"a": 1})), ("charge", fail(error)), ("notify", output({}))]
            with suppress(type(error)):
                self.engine.execute_workflow(run_id, steps, initial_input=INPUT)
        self.engine.execute_compensation(run_id, output({"mail_recalled": True}))
        self.engine.resume(run_id, [(name, output({name: 1})) for name in names])
        self.keep(run_id, names)

    def rolled_back(self) -> None:
        from resume_engine.core.step import Step

        run_id = self.start(4)
        steps = [
            Step("fetch", output({"a": 1}), compensate=output({"undone": "fetch"})),
            Step("charge", output({"b": 2}), compensate=output({"undone": "charge"})),
            Step("notify", fail(ValueError("no such address"))),
        ]
        with suppress(ValueError):
            self.engine.execute_workflow(run_id, steps, initial_input=INPUT)
        self.engine.roll_back(run_id, steps, requested_by="olga@example.com", note="withdrawn")
        self.keep(run_id, ["fetch", "charge", "notify"])

    def changed(self) -> None:
        run_id = self.start(5)
        steps = [("fetch", output({"a": 1})), ("charge", fail(ConnectionError("away")))]
        with suppress(ConnectionError):
            self.engine.execute_workflow(run_id, steps, initial_input=INPUT)
        names = ["fetch", "charge", "notify"]
        changed = [(name, output({name: True})) for name in names]
        self.engine.resume(run_id, changed, allow_workflow_change=True)
        self.keep(run_id, names)

    def step_by_step(self) -> None:
        run_id = self.start(6)
        self.engine.execute_step(run_id, "fetch", 0, INPUT, output({"a": 1}))
        self.engine.execute_step(run_id, "charge", 1, {**INPUT, "a": 1}, output({"b": 2}))
        self.keep(run_id, ["fetch", "charge", "notify"])


def main() -> None:
    if sys.argv[1:] == ["0.2.0"]:
        write("0.2.0", from_0_2_0())
        return
    from resume_engine import __version__
    from resume_engine.core.clock import ManualClock, replaced_by

    with replaced_by(ManualClock(datetime(2026, 3, 29, 0, 59, 59, 999999, tzinfo=UTC))):
        write(__version__, Maker().make())


if __name__ == "__main__":
    main()
