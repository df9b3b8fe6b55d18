"""Five minutes: a workflow fails, a person decides, the run goes on where it stopped.

    python examples/quickstart.py

Writes `quickstart.db` in the current folder; look at it with
`resume-engine dashboard --database sqlite:///quickstart.db`.
"""

from __future__ import annotations

from typing import Any

from resume_engine import PermanentStepError, ResumeBlockedError, ResumeEngine, SQLiteCheckpointStore

vault = {"payment key": "expired"}


def load_order(state: dict[str, Any], key: str) -> dict[str, Any]:
    """Read what is to be paid."""
    return {"amount": 120 * state["quantity"]}


def charge_card(state: dict[str, Any], key: str) -> dict[str, Any]:
    """Charge the card; hand `key` to the payment service, so that it charges once however often we ask."""
    if vault["payment key"] == "expired":
        raise PermanentStepError("Invalid API key")
    return {"receipt": f"r-{key[:8]}"}


def send_receipt(state: dict[str, Any], key: str) -> dict[str, Any]:
    """Mail the receipt."""
    return {"mailed": state["receipt"]}


STEPS = [("load_order", load_order), ("charge_card", charge_card), ("send_receipt", send_receipt)]


def main() -> None:
    """Fail, be blocked, be approved, be resumed."""
    engine = ResumeEngine(SQLiteCheckpointStore("sqlite:///quickstart.db"))
    run = engine.start_run("orders")
    try:
        engine.execute_workflow(run.run_id, STEPS, initial_input={"quantity": 3})
    except PermanentStepError as error:
        print(f"stopped at step 1: {error}")

    try:
        engine.resume(run.run_id, STEPS)
    except ResumeBlockedError as blocked:
        print(f"a person is needed: {blocked.blockers[0].required_action}")

    vault["payment key"] = "rotated"
    engine.grant_human_approval(run.run_id, "ana@example.com", note="API key rotated")
    finished = engine.resume(run.run_id, STEPS)  # load_order is not run again
    print(f"{finished.status}: {finished.steps[-1].output_data}")
    print(engine.get_audit_log(run.run_id))


if __name__ == "__main__":
    main()
