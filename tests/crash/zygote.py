"""Fork a child for each job: `python -m tests.crash.zygote`, driven by `processes.py`.

Everything is imported once; a child is there within milliseconds and can be killed hundreds of times.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

from resume_engine.core import failpoints
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import LeaseLostError
from resume_engine.storage.open_store import open_store
from tests.crash import broken
from tests.crash.jobs import JOBS

EXIT_LEASE_LOST = 3


def main() -> None:
    """Answer requests, one JSON line each, until there are no more."""
    _warm_up()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "job" in request:
            answer: Any = os.fork()
            if answer == 0:
                _be_a_child(request["job"])
        else:
            answer = _wait(request["wait"], request["seconds"])
        print(json.dumps(answer), flush=True)


def _warm_up() -> None:
    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        engine.execute_workflow(engine.start_run("w").run_id, [("a", lambda _input, _key: {})])
    import alembic.command  # noqa: F401 (imported when it is needed otherwise)
    import httpx  # noqa: F401
    import psycopg2  # noqa: F401


def _be_a_child(job: dict[str, Any]) -> None:
    code = 1
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(job["env"])
        importlib.reload(failpoints)  # it reads the environment once
        broken.break_engine()
        JOBS[job["do"]](job)
        code = 0
    except LeaseLostError:
        traceback.print_exc()
        code = EXIT_LEASE_LOST
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


if __name__ == "__main__":
    main()
