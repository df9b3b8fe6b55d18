"""Everything about one run in one JSON file that proves itself.

Its lists have one element a line, so that it is written and verified line by line however long it is.
`audit_verifier` checks it with nothing but Python; `docs/audit.md` describes the format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, select

from resume_engine.core.audit_chain import CONTROL, canonical, moment_text
from resume_engine.core.checkpoint import Leaf
from resume_engine.core.clock import utc_now
from resume_engine.core.codec import as_json
from resume_engine.core.decision import Decision, gates_view
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.masking import mask_json_text, mask_text, mask_value
from resume_engine.core.merkle import path_to
from resume_engine.core.payload import hashed_text
from resume_engine.storage import audit_rows, previews, rows
from resume_engine.storage.chain_reader import StoredEntry, iter_events, iter_steps
from resume_engine.storage.derived_inputs import MARK
from resume_engine.storage.schema import audit_checkpoints, audit_events, decisions, runs
from resume_engine.storage.sealing import from_row, last_leaf, leaves_of
from resume_engine.storage.signing import NoKey, Signer
from resume_engine.storage.sql_store import SqlCheckpointStore

_DOMAIN = b"resume-engine/export/1\n"
_TEXTS = ("note", "error_message", "error_traceback")


def compliance_export(
    store: SqlCheckpointStore, run_id: str, *, signer: Signer | None = None, reveal: bool = False
) -> Iterator[str]:
    """Yield the lines of the export of a run; raise `RunNotFoundError` or `PayloadLockedError` at once.

    Secrets are masked unless `reveal` says otherwise; a masked value is named as such and is not verified.
    With a `signer` the file as a whole is signed too.
    """
    store.refuse_if_locked()
    if store.load_summary(run_id) is None:
        raise RunNotFoundError(run_id)
    return _signed(_lines(store, run_id, signer or NoKey(), reveal), signer or NoKey())


def _signed(lines: Iterable[str], signer: Signer) -> Iterator[str]:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8"))
        yield line
    found = digest.hexdigest()
    content = {"hash": found, "signature": signer.sign(_DOMAIN + found.encode())}
    yield f'"content":{canonical(content)}}}\n'


def _lines(store: SqlCheckpointStore, run_id: str, signer: Signer, reveal: bool) -> Iterator[str]:
    codec = store.codec

    def shown(entry: StoredEntry, prev: str | None) -> str:
        return _entry(entry, prev, store, reveal)

    with store.reading() as conn:
        row = conn.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
        if row is None:
            raise RunNotFoundError(run_id)
        query = select(decisions).where(decisions.c.run_id == run_id).order_by(decisions.c.decision_id)
        show = audit_rows.decision_from_row if reveal else lambda found, c: previews.decision(found, c)
        decided = [show(found, codec) for found in conn.execute(query)]
        yield _value("format", "resume-engine/export/1").replace('"format"', '{"format"', 1)
        yield _value("exported_at", moment_text(utc_now()))
        yield _value("run", _run(row, store, reveal))
        yield _value("gates", gates_view(decided))
        yield from _list("decisions", (json.dumps(_decision(one, reveal)) for one in decided))
        yield from _list("steps", (shown(entry, prev) for entry, prev in _with_prev(conn, run_id)))
        yield from _list("audit_events", (shown(e, e.row.prev_hash) for e in iter_events(conn, run_id)))
        # They stand in a chain of their own; here each proves what it says, not that none is missing.
        about = iter_events(conn, CONTROL, only_about=run_id)
        yield from _list("control_events", (shown(e, e.row.prev_hash) for e in about))
        yield _value("integrity", _integrity(conn, row, signer))


def _value(name: str, value: Any) -> str:
    return f"{json.dumps(name)}:{json.dumps(value)},\n"


def _list(name: str, elements: Iterable[str]) -> Iterator[str]:
    yield f"{json.dumps(name)}:[\n"
    before = ""
    for element in elements:
        if before:
            yield f"{before},\n"
        before = element
    if before:
        yield f"{before}\n"
    yield "],\n"


def _with_prev(conn: Connection, run_id: str) -> Iterator[tuple[StoredEntry, str | None]]:
    """Yield the steps of a run, each with the hash of the entry before it: a step or an event."""
    before: StoredEntry | None = None
    for entry in iter_steps(conn, run_id):
        place = (entry.seq or 0) - 1
        if before is not None and before.seq == place:
            yield entry, before.hash
        else:
            query = select(audit_events.c.chain_hash).where(audit_events.c.stream == run_id)
            yield entry, conn.execute(query.where(audit_events.c.chain_seq == place)).scalar()
        before = entry


def _entry(entry: StoredEntry, prev: str | None, store: SqlCheckpointStore, reveal: bool) -> str:
    row = entry.row
    stream = row.run_id if entry.is_step else row.stream
    header = entry.header(stream, row.chain_seq, prev, store.codec)
    bodies, masked = {}, []
    for name, text in entry.bodies(store.codec).items():
        if name == "input" and text.startswith(MARK):
            continue  # it follows from the record
        if name == "input" and header["input"] is None:
            text = hashed_text(row.input_hash, text)
        safe = text if reveal else mask_text(text) if name in _TEXTS else mask_json_text(text)
        bodies[name] = safe
        if safe != text:
            masked.append(name)
    return json.dumps({"body": bodies, "hash": row.chain_hash, "header": header, "masked": masked})


def _run(row: rows.AnyRow, store: SqlCheckpointStore, reveal: bool) -> dict[str, Any]:
    metadata = as_json(store.codec.decode(row.metadata_json))
    return {
        "run_id": row.run_id,
        "workflow_name": row.workflow_name,
        "environment": row.environment,
        "status": row.status,
        "started_by": row.started_by,
        "created_at": moment_text(row.created_at),
        "updated_at": moment_text(row.updated_at),
        "finished_at": moment_text(row.finished_at),
        "steps_completed": row.steps_completed,
        "steps_total": row.steps_total,
        "blocked_by": row.blocked_by,
        "metadata": metadata if reveal else mask_value(metadata),
    }


def _decision(one: Decision, reveal: bool) -> dict[str, Any]:
    return {
        "failure_key": one.failure_key,
        "kind": one.kind.value,
        "ordinal": one.ordinal,
        "actor": one.actor,
        "display_name": one.display_name,
        "role": one.role,
        "channel": one.channel,
        "decided_at": moment_text(one.decided_at),
        "note": one.note,
        "result": as_json(one.result) if reveal else one.result,  # a preview holds JSON already
        "step_sequence": one.step_sequence,
        "opened": one.opened,
        "expires_at": one.expires_at.isoformat() if one.expires_at else None,  # as its event has it
    }


def _integrity(conn: Connection, row: rows.AnyRow, signer: Signer) -> dict[str, Any]:
    found: dict[str, Any] = {
        "stream": row.run_id,
        "seq": row.chain_seq,
        "head": row.chain_head,
        "checkpoint": None,
        "leaf": None,
        "path": [],
        "public_key": signer.public_key(),
    }
    sealed = last_leaf(conn, row.run_id)
    if sealed is None:
        return found
    number, leaf = sealed
    made = conn.execute(select(audit_checkpoints).where(audit_checkpoints.c.checkpoint_id == number)).one()
    return found | {
        "checkpoint": from_row(made).to_dict(),
        "leaf": {"stream": leaf.stream, "seq": leaf.seq, "head": leaf.head},
        "path": _path(leaves_of(conn, number), leaf),
    }


def _path(leaves: Iterable[Leaf], own: Leaf) -> list[tuple[str, str]]:
    hashes, at = [], 0
    for number, leaf in enumerate(leaves):
        hashes.append(leaf.hash)
        at = number if leaf.stream == own.stream else at
    return [(side, beside.hex()) for side, beside in path_to(hashes, at)]
