"""Plain functions as durable steps, and a partial failure that has to be undone first.

python examples/durable_steps.py
"""

from __future__ import annotations

from typing import Any

from resume_engine import PartialStepError, ResumeBlockedError, ResumeEngine, SQLiteCheckpointStore
from resume_engine.adapters.decorator import durable_step

outbox: list[str] = []
ledger = {"locked": True}


def notify_and_book(engine: ResumeEngine, run_id: str) -> dict[str, Any]:
    """Drive a run step by step; calling it again skips what is completed."""

    @durable_step(engine, run_id, "prepare", 0)
    def prepare(state: dict[str, Any]) -> dict[str, Any]:
        print("  prepare runs")
        return {"mail": f"Dear {state['customer']}"}

    @durable_step(engine, run_id, "send_and_book", 1)
    def send_and_book(state: dict[str, Any]) -> dict[str, Any]:
        print("  send_and_book runs")
        outbox.append(state["mail"])
        if ledger["locked"]:
            raise PartialStepError("Email sent but ledger write failed")
        return {"booked": True}

    return send_and_book.execute(prepare.execute(customer="Ms Okafor"))


def main() -> None:
    """Fail after a side effect, undo it, go on."""
    engine = ResumeEngine(SQLiteCheckpointStore("sqlite:///:memory:"))
    run = engine.start_run("welcome_mail")
    try:
        notify_and_book(engine, run.run_id)
    except PartialStepError as error:
        print(f"failed: {error}")
    try:
        notify_and_book(engine, run.run_id)
    except ResumeBlockedError as blocked:
        print(f"blocked: {blocked.blockers[0].required_action}")

    undone = engine.execute_compensation(run.run_id, lambda state, key: {"recalled": outbox.pop()})
    print(f"compensated: {undone.output_data}")
    ledger["locked"] = False
    print(notify_and_book(engine, run.run_id), outbox)
    print(engine.complete_run(run.run_id).status)


if __name__ == "__main__":
    main()
