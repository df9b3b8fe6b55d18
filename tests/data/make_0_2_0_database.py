"""Write `resume_engine_0_2_0.db` and `resume_engine_0_2_0_traces.json` with the published release 0.2.0.

Run it in an environment of its own, never in the project's:

    python -m venv old && old/bin/pip install resume_engine==0.2.0 sqlalchemy
    old/bin/python tests/data/make_0_2_0_database.py

The database holds what 0.2.0 left behind in practice: every class of failure, every form in which it kept
decisions, a compensation, an output that was empty, and replays with the copied records they made.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resume_engine import (
    PartialStepError,
    PermanentStepError,
    ResumeEngine,
    SQLiteCheckpointStore,
    TransientStepError,
)

HERE = Path(__file__).parent
DATABASE = HERE / "resume_engine_0_2_0.db"
TRACES = HERE / "resume_engine_0_2_0_traces.json"
INPUT = {"order": "A-17", "amount": 12.5, "name": "Zoë <b>"}


def run_id(number: int) -> str:
    return f"0200{number:04d}-0000-4000-8000-000000000000"


def steps(error: Exception | None = None, fail_at: int = 1) -> list[tuple[str, Any]]:
    def output(index: int) -> Any:
        return lambda _input, _key: {f"out_{index}": index, "text": "naïve ✓"}

    def fail(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        assert error is not None
        raise error

    return [
        (name, fail if error is not None and index == fail_at else output(index))
        for index, name in enumerate(("fetch", "charge", "notify"))
    ]


def now() -> str:
    return datetime.now(UTC).isoformat()


class Maker:
    def __init__(self) -> None:
        self.store = SQLiteCheckpointStore(f"sqlite:///{DATABASE}")
        self.engine = ResumeEngine(self.store)

    def failed(self, number: int, error: Exception, **metadata: Any) -> str:
        run = self.engine.start_run("billing", run_id=run_id(number), metadata=metadata)
        with suppress(type(error)):
            self.engine.execute_workflow(run.run_id, steps(error), initial_input=INPUT)
        return run.run_id

    def set_gates(self, of: str, **gates: Any) -> None:
        """Write decisions the way the 0.2.0 service did: into the metadata, the run paused."""
        run = self.store.get_run(of)
        run.metadata["gates"] = {**run.metadata.get("gates", {}), **gates}
        run.status = type(run.status).PAUSED
        self.store.update_run(run)

    def ack(self, of: str) -> None:
        self.set_gates(
            of,
            prod_resume_ack={
                "granted": True,
                "acknowledged_by": "olga@example.com",
                "acknowledged_at": now(),
                "note": "checked the ledger",
            },
        )

    def make(self) -> None:
        engine = self.engine
        # 1: completed, with a step whose output was empty (stored as null).
        with_empty = [*steps(), ("archive", lambda _input, _key: {})]
        completed = engine.start_run("billing", run_id=run_id(1), metadata={"customer": "Zoë"}).run_id
        engine.execute_workflow(completed, with_empty, initial_input=INPUT)
        # 2 to 4: one failure of each class, nothing decided.
        self.failed(2, TransientStepError("gateway timed out"))
        self.failed(3, PermanentStepError("invalid API key"))
        self.failed(4, PartialStepError("mail sent, row not written"))
        # 5: approved by 0.2.0's library.
        engine.grant_human_approval(
            self.failed(5, PermanentStepError("quota used up")), "olga@example.com", note="quota raised"
        )
        # 6: compensated by a function; 7: compensated elsewhere.
        engine.execute_compensation(
            self.failed(6, PartialStepError("mail sent, row not written")),
            lambda _input, _key: {"mail_recalled": True},
        )
        engine.record_compensation(
            self.failed(7, PartialStepError("refund half done")), result={"refund_id": "r-1"}, note="by hand"
        )
        # 8: transient in prod, acknowledged.
        # 9: permanent in prod, approved in the later form, not acknowledged.
        self.ack(self.failed(8, TransientStepError("gateway timed out"), environment="prod"))
        approved = self.failed(9, PermanentStepError("invalid API key"), environment="prod")
        self.set_gates(
            approved,
            approvals={
                "1:1": {
                    "granted": True,
                    "approved_by": "olga@example.com",
                    "approved_at": now(),
                    "note": None,
                }
            },
        )
        # 10: acknowledged in prod, resumed, failed again: the old acknowledgement must not open the new gate.
        again = self.failed(10, TransientStepError("gateway timed out"), environment="prod")
        self.ack(again)
        with suppress(TransientStepError):
            engine.resume(again, steps(TransientStepError("gateway timed out again")), initial_input=INPUT)
        # 11: resumed to the end, then replayed (copies with equal sequences); 12: the completed run replayed.
        mended = self.failed(11, TransientStepError("gateway timed out"))
        engine.resume(mended, steps(), initial_input=INPUT)
        engine.replay_run(mended, steps(), initial_input=INPUT)
        engine.replay_run(completed, with_empty, initial_input=INPUT)
        # 13: its process died between two steps: still "running".
        died = engine.start_run("billing", run_id=run_id(13), metadata={"environment": "staging"}).run_id
        engine.execute_step(died, "fetch", 0, INPUT, steps()[0][1])
        # 14: an environment that 0.2.0 let pass.
        self.failed(14, TransientStepError("gateway timed out"), environment="production-eu")
        # 15: acknowledged before anything failed.
        self.ack(engine.start_run("billing", run_id=run_id(15), metadata={"environment": "prod"}).run_id)

    def traces(self) -> dict[str, str]:
        with self.store._session_factory() as session:
            from resume_engine.storage.models import RunRow

            ids = [row.run_id for row in session.query(RunRow).order_by(RunRow.created_at)]
        return {found: self.engine.get_audit_log(found) for found in ids}


def main() -> None:
    DATABASE.unlink(missing_ok=True)
    maker = Maker()
    maker.make()
    TRACES.write_text(json.dumps(maker.traces(), indent=1) + "\n", encoding="utf-8")
    maker.store.close()


if __name__ == "__main__":
    main()
