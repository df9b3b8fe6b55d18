"""The smoke test over HTTP: what a runner and an operator send, with nothing but the standard library."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from resume_engine.cli.printing import one_line
from resume_engine.core.idempotency import generate_idempotency_key, hash_input

TIMEOUT_SECONDS = 30.0
Passed = Callable[[bool, str], None]


class Api:
    """Call an API by its base address, such as https://runs.example.org/api."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of the answer, whatever it is; stop when there is none."""
        data = json.dumps(body).encode() if body is not None else None
        try:
            request = Request(f"{self._url}{path}", data, self._headers, method=method)
            with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                return answer.status, _read(answer.read())
        except HTTPError as refused:
            with refused:
                return refused.code, _read(refused.read())
        except (URLError, OSError) as problem:
            reason = one_line(str(getattr(problem, "reason", problem)))
            raise click.ClickException(f"{one_line(self._url)} does not answer: {reason}.") from problem
        except ValueError:
            # The exception's own words may repeat the key.
            raise click.ClickException(
                "The address or the key holds characters that cannot be sent."
            ) from None

    def expect(
        self, status: int, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the answer to a call that has to come with this status."""
        found, answer = self.call(method, path, body)
        if found != status:
            detail = one_line(str(answer.get("detail", "no JSON: is this the address of an API?")), 300)
            raise click.ClickException(
                f"The smoke test failed: {method} {path} answered {found} instead of {status}: {detail}"
            )
        return answer


def walk(api: Api, workflow_name: str, passed: Passed) -> str:
    """Take a run through failure, gate and resume; return its id."""
    started = api.expect(
        200, "POST", "/start_run", {"workflow_name": workflow_name, "metadata": {"smoke_test": True}}
    )
    run_id, path = started["run_id"], f"/runs/{started['run_id']}"
    fetched = _step(run_id, "fetch", 0, 0, {"source": "smoke test"}, output={"amount": 42})
    api.expect(201, "POST", f"{path}/steps", fetched)
    again = api.expect(201, "POST", f"{path}/steps", fetched)
    passed(again["steps_completed"] == 1, "a step that was sent twice counts once")
    given = {"source": "smoke test", "amount": 42}
    api.expect(
        201, "POST", f"{path}/steps", _step(run_id, "publish", 1, 1, given, error="meant to fail once")
    )
    passed(_is_blocked(api, run_id), "the gate is closed: resume was refused")
    published = _step(run_id, "publish", 1, 2, given, output={"published": 42})
    passed(api.call("POST", f"{path}/steps", published)[0] == 409, "no step was taken behind the closed gate")
    api.expect(200, "POST", f"{path}/approve", {"approved_by": "smoke test", "note": "smoke test"})
    api.expect(200, "POST", "/resume", {"run_id": run_id})
    api.expect(201, "POST", f"{path}/steps", published)
    api.expect(200, "PATCH", path, {"status": "completed"})
    passed(
        api.expect(200, "GET", f"{path}/status")["status"] == "completed", "approved and resumed to the end"
    )
    trace = api.expect(200, "GET", f"{path}/audit_log")["audit_trace"]
    passed(len(trace.splitlines()) == 5, "the audit trace has all three attempts")
    return str(run_id)


def _is_blocked(api: Api, run_id: str) -> bool:
    status, answer = api.call("POST", "/resume", {"run_id": run_id})
    return status == 409 and bool(answer.get("detail", {}).get("blockers"))


def _step(
    run_id: str,
    name: str,
    index: int,
    sequence: int,
    given: dict[str, Any],
    *,
    output: dict[str, Any] | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    return {
        "step_name": name,
        "step_index": index,
        "status": "failed" if error else "completed",
        "input_json": given,
        "output_json": output,
        "failure_classification": "permanent" if error else None,
        "error_message": error,
        "sequence": sequence,
        "idempotency_key": generate_idempotency_key(run_id, name, index, hash_input(given)),
    }


def _read(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
