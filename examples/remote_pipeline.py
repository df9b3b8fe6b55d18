"""Ten steps recorded on a control plane elsewhere, a failure at the seventh, and where to look at it.

    ORCHESTRATEOS_API_URL=http://127.0.0.1:8000/api ORCHESTRATEOS_API_KEY=re_... \
        python examples/remote_pipeline.py

`resume-engine demo` starts such a control plane, `resume-engine keys create` makes the key (role runner).
Steps run in this process; each is written over there, in one request, before the next one begins.
"""

from __future__ import annotations

import os
from typing import Any

from resume_engine import ResumeEngine, TransientStepError
from resume_engine.storage.remote_backend import RemoteCheckpointStore

API_URL = os.environ.get("ORCHESTRATEOS_API_URL", "http://127.0.0.1:8000/api")
STEPS = 10
FAILS_AT = 7


def step(number: int) -> Any:
    """Return a step that fails the first time if it is the seventh."""
    calls = 0

    def act(state: dict[str, Any], idempotency_key: str) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if number == FAILS_AT and calls == 1:
            raise TransientStepError("503: no healthy upstream")
        return {f"step_{number}": f"ok, key {idempotency_key[:8]}"}

    return (f"step_{number}", act)


def main() -> None:
    """Run, fail, resume, and say where the run can be seen."""
    steps = [step(number) for number in range(1, STEPS + 1)]
    with RemoteCheckpointStore(API_URL) as store:
        engine = ResumeEngine(store)
        run = engine.start_run("remote_pipeline", metadata={"failure_at": FAILS_AT})
        try:
            engine.execute_workflow(run.run_id, steps, initial_input={"order": "A-17"})
        except TransientStepError as error:
            print(f"step {FAILS_AT} of {STEPS} failed: {error}")
        before = store.requests
        done = engine.resume(run.run_id, steps)
        print(f"resumed at step {FAILS_AT}: {done.status}, {len(done.steps)} attempts on record")
        print(f"the {STEPS - FAILS_AT + 1} steps left took {store.requests - before} requests in all")
    print(f"see it: {API_URL.removesuffix('/api')}/runs/{run.run_id}")


if __name__ == "__main__":
    main()
