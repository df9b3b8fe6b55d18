"""Records as JSON messages between a remote store and its server.

Payloads travel as the text that is stored of them: what is read back is what was written, byte by byte.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

from resume_engine.core.audit import AuditEvent
from resume_engine.core.clock import as_utc
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.payload import encode, from_text
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_summary import Failure, RunSummary, StepInFlight
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus

Message = dict[str, Any]


def summary_message(run: RunSummary) -> Message:
    """Return a run without its records."""
    message = {name: _plain(value) for name, value in vars(run).items()}
    message["failure"] = None if run.failure is None else _fields(run.failure)
    message["in_flight"] = [intent_message(step) for step in run.in_flight]
    message["blocked_by"] = [action.value for action in run.blocked_by]
    return message


def read_summary(message: Message) -> RunSummary:
    """Return the run of a message; fields that a newer server adds are left out."""
    known = {field.name for field in fields(RunSummary)}
    values = {name: value for name, value in message.items() if name in known}
    values |= {name: _moment(values.get(name)) for name in _SUMMARY_TIMES}
    values["status"] = RunStatus(message["status"])
    values["environment"] = Environment(message["environment"])
    values["failure"] = None if message["failure"] is None else read_failure(message["failure"])
    values["in_flight"] = tuple(read_intent(step) for step in message["in_flight"])
    values["blocked_by"] = tuple(GateAction(word) for word in message["blocked_by"])
    return RunSummary(**values)


_SUMMARY_TIMES = (
    "created_at",
    "updated_at",
    "blocked_since",
    "cleared_at",
    "cleared_until",
    "lease_expires_at",
    "retry_at",
    "finished_at",
)


def read_failure(message: Message) -> Failure:
    """Return the failure of a message."""
    return Failure(
        **message
        | {
            "classification": FailureClassification(message["classification"]),
            "failed_at": _moment(message["failed_at"]),
        }
    )


def intent_message(step: StepInFlight) -> Message:
    """Return a step that is about to be called."""
    message = {name: _plain(value) for name, value in step._asdict().items()}
    return message if step.asked else {name: message[name] for name in message if name != "asked"}


def read_intent(message: Message) -> StepInFlight:
    """Return the step in flight of a message."""
    return StepInFlight(**message | {"since": _moment(message["since"])})


_TIMED = ("timestamp", "started_at")
_PLAIN = (
    "step_name",
    "step_index",
    "input_hash",
    "idempotency_key",
    "error_message",
    "sequence",
    "attempt",
    "duration_ms",
    "error_type",
    "error_traceback",
    "classified_by",
    "worker",
)


def step_message(record: StepRecord) -> Message:
    """Return a step record with its payloads as text."""
    message: Message = {name: getattr(record, name) for name in _PLAIN}
    failure = record.failure_classification
    return message | {
        "status": record.status.value,
        "failure_classification": failure.value if failure else None,
        "timestamp": record.timestamp.isoformat(),
        "started_at": record.started_at.isoformat() if record.started_at else None,
        "input_text": encode(record.input_data) if record.input_text is None else record.input_text,
        "output_text": output_text(record),
    }


def output_text(record: StepRecord) -> str | None:
    """Return what is stored of an output, None for a step without one."""
    if record.output_data is None:
        return None
    return encode(record.output_data) if record.output_text is None else record.output_text


def read_step(message: Message) -> StepRecord:
    """Return the record of a message."""
    failure, output = message["failure_classification"], message["output_text"]
    return StepRecord(
        **{name: message[name] for name in _PLAIN},
        input_data=from_text(message["input_text"]),
        output_data=None if output is None else from_text(output),
        status=StepStatus(message["status"]),
        failure_classification=FailureClassification(failure) if failure else None,
        timestamp=as_utc(datetime.fromisoformat(message["timestamp"])),
        started_at=_moment(message["started_at"]),
    )


def decision_message(decision: Decision) -> Message:
    """Return a decision; its result as text."""
    message = _fields(decision)
    message["result"] = None if decision.result is None else encode(decision.result)
    return message


def read_decision(message: Message) -> Decision:
    """Return the decision of a message."""
    known = {field.name for field in fields(Decision)}
    values = {name: value for name, value in message.items() if name in known}
    values["kind"] = DecisionKind(message["kind"])
    values["result"] = None if message["result"] is None else from_text(message["result"])
    values |= {name: _moment(message.get(name)) for name in ("decided_at", "expires_at")}
    return Decision(**values)


def event_message(event: AuditEvent) -> Message:
    """Return an audit event; its payload as text."""
    return _fields(event) | {"payload": encode(event.payload)}


def read_event(message: Message) -> AuditEvent:
    """Return the audit event of a message."""
    known = {field.name for field in fields(AuditEvent)}
    values = {name: value for name, value in message.items() if name in known}
    values["payload"] = from_text(message["payload"])
    values["created_at"] = _moment(message["created_at"])
    return AuditEvent(**values)


def _fields(record: Any) -> Message:
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _moment(text: str | None) -> datetime | None:
    return None if text is None else as_utc(datetime.fromisoformat(text))
