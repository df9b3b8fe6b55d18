"""The chain of the audit: every entry's hash covers the entry before it.

An entry is a step record or an audit event. What is hashed is its header: canonical JSON (RFC 8785) of what
an auditor relies on, with digests in place of payloads and texts. The digests are of the plain text, so that
sealing a row or changing its key leaves the chain whole. Headers of one version never change; golden values
in the tests hold them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

from resume_engine.core.clock import utc_text
from resume_engine.core.payload import encode, is_hash_of, storable

if TYPE_CHECKING:
    from resume_engine.core.audit import AuditEvent
    from resume_engine.core.run_change import RunChange
    from resume_engine.core.step_record import StepRecord

VERSION = 1
CONTROL = "control"
"""The stream of everything that changes no run; a run's stream is named by its id."""

_DOMAIN = b"resume-engine/audit/1\n"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True)

Header = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """The place of an entry in its stream; `prev_hash` is None for the first."""

    seq: int
    prev_hash: str | None
    hash: str


def canonical(header: Mapping[str, Any]) -> str:
    """Return a header as RFC 8785 writes it; a header holds nothing but text, whole numbers and null."""
    return _ENCODER.encode(header)


def entry_hash(header: Mapping[str, Any]) -> str:
    """Return the hash of an entry."""
    return _text_hash(canonical(header))


def _text_hash(text: str) -> str:
    return hashlib.sha256(_DOMAIN + text.encode("utf-8", "surrogatepass")).hexdigest()


def digest(text: str | None) -> str | None:
    """Return the SHA-256 of a text, None for none."""
    return None if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def moment_text(moment: datetime | None) -> str | None:
    """Return a moment as a header holds it: UTC with six digits, whatever zone a database gave it."""
    return None if moment is None else utc_text(moment)


def step_header(
    stream: str,
    seq: int,
    prev_hash: str | None,
    record: StepRecord,
    *,
    input_digest: str | None,
    output_digest: str | None,
    duplicate: int = 0,
) -> Header:
    """Return the header of a step record; `duplicate` marks the copies that replays of 0.2.0 made."""
    failure = record.failure_classification
    return {
        "attempt": record.attempt,
        "classified_by": record.classified_by,
        "duplicate": duplicate,
        "duration_ms": record.duration_ms,
        "entry": "step",
        "error_message": _text_digest(record.error_message),
        "error_traceback": _text_digest(record.error_traceback),
        "error_type": record.error_type,
        "failure_classification": failure.value if failure else None,
        "idempotency_key": record.idempotency_key,
        "input": input_digest,
        "input_hash": record.input_hash,
        "output": output_digest,
        "prev": prev_hash,
        "seq": seq,
        "sequence": record.sequence,
        "started_at": moment_text(record.started_at),
        "status": record.status.value,
        "step_index": record.step_index,
        "step_name": record.step_name,
        "stream": stream,
        "time": moment_text(record.timestamp),
        "v": VERSION,
        "worker": record.worker,
    }


def completed_text(
    stream: str, seq: int, prev_hash: str | None, record: StepRecord, output_digest: str | None
) -> str:
    """Return the canonical header of a completed step whose hash covers its input; every step pays for it."""
    quoted = encode_basestring
    by, worker, started_at = record.classified_by, record.worker, record.started_at
    output = "null" if output_digest is None else quoted(output_digest)
    started = "null" if started_at is None else f'"{utc_text(started_at)}"'
    return (
        f'{{"attempt":{record.attempt},"classified_by":{"null" if by is None else quoted(by)},"duplicate":0,'
        f'"duration_ms":{"null" if record.duration_ms is None else record.duration_ms},"entry":"step",'
        '"error_message":null,"error_traceback":null,"error_type":null,"failure_classification":null,'
        f'"idempotency_key":{quoted(record.idempotency_key)},"input":null,'
        f'"input_hash":{quoted(record.input_hash)},"output":{output},'
        f'"prev":{"null" if prev_hash is None else quoted(prev_hash)},"seq":{seq},'
        f'"sequence":{record.sequence},"started_at":{started},"status":"{record.status}",'
        f'"step_index":{record.step_index},"step_name":{quoted(record.step_name)},"stream":{quoted(stream)},'
        f'"time":"{utc_text(record.timestamp)}","v":{VERSION},'
        f'"worker":{"null" if worker is None else quoted(worker)}}}'
    )


def event_header(
    stream: str, seq: int, prev_hash: str | None, event: AuditEvent, *, payload_digest: str | None
) -> Header:
    """Return the header of an audit event."""
    return {
        "actor": storable(event.actor)[:255],
        "channel": event.channel,
        "entry": "event",
        "event_type": str(event.event_type),
        "failure_key": event.failure_key,
        "note": _text_digest(event.note),
        "payload": payload_digest,
        "prev": prev_hash,
        "role": event.role,
        "run_id": event.run_id,
        "seq": seq,
        "stream": stream,
        "time": moment_text(event.created_at),
        "v": VERSION,
    }


def links_of(change: RunChange) -> Iterator[Link]:
    """Yield the links that a change adds to its run's stream: its record first, then its events in order."""
    stream, seq, head = change.before.run_id, change.before.chain_seq, change.before.chain_head
    if change.record is not None:
        head = record_hash(stream, seq + 1, head, change.record)
        yield Link(seq + 1, change.before.chain_head, head)
        seq += 1
    for event in change.events:
        link = event_link(stream, seq, head, event)
        yield link
        seq, head = link.seq, link.hash


def end_of(change: RunChange) -> tuple[int, str | None]:
    """Return index and hash of the last entry in the run's stream once a change is written."""
    seq, head = change.before.chain_seq, change.before.chain_head
    if change.record is not None and not change.events:  # a step: nearly always
        return seq + 1, record_hash(change.before.run_id, seq + 1, head, change.record)
    for link in links_of(change):
        seq, head = link.seq, link.hash
    return seq, head


def record_hash(stream: str, seq: int, prev_hash: str | None, record: StepRecord) -> str:
    """Return the hash of a record that is about to be written."""
    output: str | None = None
    if record.output_data is not None:
        output = digest(encode(record.output_data) if record.output_text is None else record.output_text)
    # The engine hashed the input it wrote; what comes from outside says of its input what it likes.
    covered = record.input_text is not None or record.follows_from is not None
    if covered and record.is_completed and not (record.failure_classification or record.error_type):
        return _text_hash(completed_text(stream, seq, prev_hash, record, output))
    given = None if covered else input_digest(record, encode(record.input_data))
    return entry_hash(step_header(stream, seq, prev_hash, record, input_digest=given, output_digest=output))


def event_link(stream: str, seq: int, head: str | None, event: AuditEvent) -> Link:
    """Return the link of an event that is appended behind entry `seq` with the hash `head`."""
    header = event_header(stream, seq + 1, head, event, payload_digest=digest(encode(event.payload)))
    return Link(seq + 1, head, entry_hash(header))


def input_digest(record: StepRecord, text: str) -> str | None:
    """Return the digest of an input that its `input_hash` does not cover, else None."""
    return None if is_hash_of(record.input_hash, text) else digest(text)


def _text_digest(text: str | None) -> str | None:
    return None if text is None else digest(storable(text))
