"""The store over HTTP: a control plane keeps the record, steps run here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from resume_engine.core.actor import ENGINE_ACTOR, Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decision import Decision
from resume_engine.core.errors import (
    AlreadyDecidedError,
    DecisionError,
    InvalidValueError,
    RemoteError,
    RemoteUnsupportedError,
    RunBusyError,
    RunExistsError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.messages import (
    read_decision,
    read_event,
    read_step,
    read_summary,
)
from resume_engine.core.outside_writes import check_new_run, check_record, check_run
from resume_engine.core.payload import MAX_REQUEST_BYTES, from_text, is_storable, storable
from resume_engine.core.process_identity import is_gone
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.run import Run
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepRecord
from resume_engine.core.store import CheckpointStore
from resume_engine.storage.http_transport import RETRY_SECONDS, HttpTransport
from resume_engine.storage.old_server import OldServer
from resume_engine.storage.plain_step import plain_step
from resume_engine.storage.remote_change import change_request
from resume_engine.storage.remote_errors import read_blocker

URL_VARIABLE = "ORCHESTRATEOS_API_URL"
KEY_VARIABLE = "ORCHESTRATEOS_API_KEY"
_ROOM_BESIDE_INPUT = 100_000  # in a request, for all that a record holds beside its input and output
_NAMES_MAX_CHARACTERS = 3_000  # servers and proxies commonly take addresses of 4,000


class RemoteCheckpointStore(CheckpointStore):
    """Keep runs on a control plane; a step costs one request.

    `api_url` and `api_key` default to ORCHESTRATEOS_API_URL and ORCHESTRATEOS_API_KEY. A request that gets no
    answer within `timeout` seconds is repeated for up to `retry_seconds`: every write may be, none counts
    twice. A control plane of release 0.2.0 works too, without leases, on which it warns once.
    """

    def __init__(
        self,
        api_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retry_seconds: float = RETRY_SECONDS,
        transport: Any = None,
    ) -> None:
        address = api_url or os.environ.get(URL_VARIABLE, "")
        if not address:
            raise InvalidValueError("api_url", f"give the control plane's address, or set {URL_VARIABLE}")
        self._http = HttpTransport(
            address,
            api_key=api_key or os.environ.get(KEY_VARIABLE) or None,
            timeout=timeout,
            retry_seconds=retry_seconds,
            transport=transport,
        )
        self._old = OldServer(self._http)
        self._refused_there: set[tuple[str, str | None]] = set()  # decisions, on record there already

    @property
    def requests(self) -> int:
        """Return how many requests were sent."""
        return self._http.requests

    @property
    def max_input_characters(self) -> int | None:
        """Return how long an input may be, so that its record has room for how the step failed."""
        return None if self._is_old() else MAX_REQUEST_BYTES - _ROOM_BESIDE_INPUT

    @property
    def api_url(self) -> str:
        """Return the address of the control plane."""
        return self._http.api_url

    def expect_protocol(self) -> None:
        """Take the control plane for one of this protocol from the first call on, never for one of 0.2.0."""
        self._http.expect_protocol()

    def close(self) -> None:
        """Release the connections."""
        self._http.close()

    # The six calls of 0.2.0

    def create_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR, change_id: str | None = None) -> None:
        """Start the run on the control plane; raise `RunExistsError` if the id is taken."""
        check_new_run(run)
        answer = self._http.call(
            "POST",
            "/start_run",
            {
                "workflow_name": run.workflow_name,
                "run_id": run.run_id,
                "metadata": run.to_dict()["metadata"],
                "environment": run.environment.value,
                "change_id": change_id or secrets.token_hex(8),
            },
        )
        if answer.status == 404:
            raise RemoteError(
                f"{self.api_url} does not know /start_run (404): give the address of a control plane's API, "
                "such as https://runs.example.org/api."
            )
        if answer.status == 409 and not (answer.repeated and self._old.is_untouched(run)):
            raise RunExistsError(run.run_id)

    def get_run(self, run_id: str) -> Run | None:
        """Return a run with all its records and the view of its decisions, or None."""
        if not is_storable(run_id):
            return None
        found = self._http.call("GET", _run_path(run_id)).body
        return None if found is None else Run.from_dict(found)

    def update_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR) -> None:
        """Write status and metadata of `run`; what its view of the gates decides anew needs an operator."""
        check_run(run)
        body = {"status": run.status.value, "metadata": run.to_dict()["metadata"]}
        if self._http.call("PATCH", _run_path(run.run_id), body).status == 404:
            raise RunNotFoundError(run.run_id)

    def append_step(self, run_id: str, step: StepRecord) -> None:
        """Write a record that was made elsewhere; repeating the same write changes nothing."""
        check_record(step)
        body = plain_step(step)
        if self._http.call("POST", f"{_run_path(run_id)}/steps", body).status == 404:
            raise RunNotFoundError(run_id)

    def get_step_by_idempotency_key(self, key: str) -> StepRecord | None:
        """Return the completed record with this key, or None."""
        if not is_storable(key) or not key:
            return None
        found = self._http.call("GET", f"/idempotency/{quote(key, safe='')}").body
        return None if found is None else StepRecord.from_dict(found)

    # What the engine needs beside them

    def load_summary(self, run_id: str) -> RunSummary | None:
        """Return a run without its records, or None."""
        if not is_storable(run_id) or not run_id:
            return None
        if self._is_old():
            return self._old.load_summary(run_id)
        found = self._http.call("GET", f"{_run_path(run_id)}/lease").body
        if found is None and self._is_old():  # the first call of all has told
            return self._old.load_summary(run_id)
        return None if found is None else read_summary(found["run"])

    def load_initial_input(self, run_id: str) -> dict[str, Any] | None:
        """Return the initial input a workflow was started with, or None when none was recorded."""
        text = (self._read(f"{_run_path(run_id)}/workflow") or {}).get("initial_input_text")
        return None if text is None else from_text(text)

    def load_workflow(self, run_id: str) -> Sequence[str]:
        """Return the step names a run was started with, empty when none were recorded."""
        found: list[str] = (self._read(f"{_run_path(run_id)}/workflow") or {}).get("steps", [])
        return found

    def iter_steps(self, run_id: str, *, completed_only: bool = False) -> Iterator[StepRecord]:
        """Yield records by sequence, a page in memory at a time."""
        if self._is_old():
            yield from self._old.steps(run_id, completed_only)
            return
        after: int | None = -1
        while after is not None:
            query = {"after": after, "completed_only": "true" if completed_only else "false"}
            page = self._read(f"{_run_path(run_id)}/steps", query)
            if page is None:
                return
            yield from map(read_step, page["steps"])
            after = page["next_after"]

    def list_open_failures(self, run_id: str) -> Sequence[StepRecord]:
        """Return the failed attempts, by sequence, that are the latest of their step, without inputs."""
        if self._is_old():
            return super().list_open_failures(run_id)
        found = self._read(f"{_run_path(run_id)}/open_failures") or {"steps": []}
        return [read_step(step) for step in found["steps"]]

    def load_step(self, run_id: str, sequence: int) -> StepRecord | None:
        """Return one record of a run by its sequence, or None."""
        if self._is_old():
            return next((step for step in self._old.steps(run_id) if step.sequence == sequence), None)
        found = self._read(f"{_run_path(run_id)}/steps/{sequence}")
        return None if found is None else read_step(found)

    def commit(self, change: RunChange) -> RunSummary:
        """Ask for a change in one request; the control plane computes what follows from it."""
        if self._is_old():
            return self._old.commit(change)
        wanted = change_request(change)
        path = f"{_run_path(change.before.run_id)}/{wanted.call}"
        try:
            answer = self._http.call("POST", path, wanted.body, idempotency_key=wanted.idempotency_key)
        except RunBusyError:
            if not self._end_lease_of_the_dead(change.before):
                raise
            answer = self._http.call("POST", path, wanted.body)
        except DecisionError as refusal:
            if not change.decisions:
                raise  # of a rollback: refused over there, and nothing else
            self._refused_there.add((change.before.run_id, change.decisions[0].failure_key))
            if isinstance(refusal, AlreadyDecidedError):
                raise self._with_decision(change, refusal) from None
            raise
        if answer.body is None:
            raise StaleRunError(change.before.run_id, f"version {change.before.version}", "no such run")
        return read_summary(answer.body["run"])

    def renew_lease(self, run_id: str, owner: str, token: int, seconds: float) -> bool:
        """Let a lease end so many seconds from now by the control plane's clock; 0 ends it."""
        if self._is_old():
            return True
        body = {"action": "renew", "lease": {"owner": owner, "token": token, "seconds": seconds}}
        # It comes again by itself: longer than a third of the lease it need not be tried.
        patience = max(seconds / 3, 1.0)
        found = self._http.call("POST", f"{_run_path(run_id)}/lease", body, retry_seconds=patience).body
        return bool(found is not None and found["is_held"])

    def list_decisions(self, run_id: str, *, failure_key: str | None = None) -> Sequence[Decision]:
        """Return the decisions of a run, oldest first; only those of one failure event if given."""
        query = {"failure_key": failure_key} if failure_key else None
        found = self._read(f"{_run_path(run_id)}/decisions", query) or {"decisions": []}
        return [read_decision(decision) for decision in found["decisions"]]

    def load_blockers(self, run_id: str) -> Sequence[ResumeBlocker] | None:
        """Return the missing decisions as the control plane counts them by its policy."""
        found = self._read(f"{_run_path(run_id)}/resume_blockers")
        return None if found is None else [read_blocker(blocker) for blocker in found["blockers"]]

    def append_event(self, event: AuditEvent) -> None:
        """Report a decision that was refused here; other events the control plane writes by itself."""
        if event.event_type != EventType.GATE_REFUSED or event.run_id is None:
            raise RemoteUnsupportedError("Audit events are written by the control plane itself.")
        if self._is_old() or (event.run_id, event.failure_key) in self._refused_there:
            self._refused_there.discard((event.run_id, event.failure_key))
            return
        body = {
            "failure_key": event.failure_key,
            "payload": {name: storable(str(value))[:2_000] for name, value in event.payload.items()},
        }
        self._http.call("POST", f"{_run_path(event.run_id)}/refused_decisions", body)

    def list_events(self, run_id: str) -> Sequence[AuditEvent]:
        """Return the stored audit events of a run, oldest first, without the derived step events."""
        found = self._read(f"{_run_path(run_id)}/stored_events") or {"events": []}
        return [read_event(event) for event in found["events"]]

    def find_resumable(
        self, workflow_names: Sequence[str], *, failed_before: datetime, max_attempts: int, limit: int
    ) -> Sequence[RunSummary]:
        """Return runs that need nobody: cleared ones, interrupted ones, and transient failures."""
        query = {"failed_before": failed_before.isoformat(), "max_attempts": max_attempts, "limit": limit}
        found = [run for names in _batches(workflow_names) for run in self._resumable(names, query)]
        return sorted(found, key=lambda run: (run.updated_at, run.run_id))[:limit]

    # Inside

    def _resumable(self, workflow_names: Sequence[str], query: dict[str, Any]) -> Sequence[RunSummary]:
        found = self._http.call("GET", "/resumable", query={"workflow": workflow_names} | query).body
        if found is None:
            raise RemoteUnsupportedError(
                "This control plane is of release 0.2.0: it cannot tell which runs may be resumed."
            )
        return [read_summary(run) for run in found["runs"]]

    def _is_old(self) -> bool:
        return self._http.protocol == 0

    def _read(self, path: str, query: dict[str, Any] | None = None) -> dict[str, Any] | None:
        if self._is_old():
            return None
        found: dict[str, Any] | None = self._http.call("GET", path, query=query).body
        return found

    def _end_lease_of_the_dead(self, run: RunSummary) -> bool:
        """End the lease of an executor that was a process of this machine, as only this machine can know."""
        owner = run.lease_owner
        if owner is None or run.lease_live or not is_gone(owner):
            return False
        return self.renew_lease(run.run_id, owner, run.lease_token, 0)

    def _with_decision(self, change: RunChange, refusal: AlreadyDecidedError) -> Exception:
        asked = change.decisions[0]
        made = self.list_decisions(asked.run_id, failure_key=asked.failure_key)
        return AlreadyDecidedError(made[-1]) if made else refusal


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield names that may stand together in one address."""
    batch: list[str] = []
    length = 0
    for name in dict.fromkeys(names):
        more = len(quote(name, safe="")) + len("&workflow=")
        if batch and length + more > _NAMES_MAX_CHARACTERS:
            yield batch
            batch, length = [], 0
        batch.append(name)
        length += more
    if batch:
        yield batch


def _run_path(run_id: str) -> str:
    return f"/runs/{quote(run_id, safe='')}"
