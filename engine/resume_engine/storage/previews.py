"""What people are shown of a row: opened, cut to a beginning, secrets masked.

Pages, exports and the command line read through here; whoever resumes a run reads records through `rows`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, case, func

from resume_engine.core import audit
from resume_engine.core.audit import AuditEvent
from resume_engine.core.codec import as_json
from resume_engine.core.decision import Decision
from resume_engine.core.masking import mask_json_text, mask_text, mask_value
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepRecord
from resume_engine.storage import audit_rows, rows, run_rows
from resume_engine.storage.payload_codec import SEALED_MARK, PayloadCodec, is_sealed, shown_json

SEALED_CHARACTERS = 400_000
"""What is sealed can only be opened whole: longer values are not opened for a preview."""

Text = TypeVar("Text", str, "str | None")


def beginning(column: Any, characters: int) -> ColumnElement[str]:
    """Return the expression for the beginning of a stored value; of a sealed one for all of it."""
    return case(
        (func.substr(column, 1, len(SEALED_MARK)) == SEALED_MARK, func.substr(column, 1, SEALED_CHARACTERS)),
        else_=func.substr(column, 1, characters),
    )


def json_start(codec: PayloadCodec, text: Text, size: Any, characters: int) -> tuple[Text, Any]:
    """Return the masked beginning of a payload and its full size in characters, from a `beginning`."""
    if text is None:
        return None, None
    if is_sealed(text):
        if size > SEALED_CHARACTERS:
            return '{"encrypted": "too large to be opened here; see the download"}', size
        opened = shown_json(codec, text)
        text, size = opened[:characters], len(opened)
    return mask_json_text(text), size


def message(codec: PayloadCodec, text: Text, characters: int | None = None) -> Text:
    """Return a message, note or traceback as people see it, cut to so many characters."""
    if not text:
        return text
    opened = codec.decode_text(text)
    cut = characters is not None and len(opened) >= characters
    return mask_text(opened[:characters], cut=cut)


def run(row: rows.AnyRow, codec: PayloadCodec) -> RunSummary:
    """Return the summary of a row as people see it."""
    return shown(run_rows.summary_from_row(row, codec))


def shown(summary: RunSummary) -> RunSummary:
    """Return a summary with secrets masked: in its failure, and in the name of whoever cleared it."""
    failure = summary.failure
    if failure is not None and (message := mask_text(failure.message)) != failure.message:
        summary = replace(summary, failure=replace(failure, message=message))
    if (cleared_by := _masked(summary.cleared_by)) != summary.cleared_by:
        summary = replace(summary, cleared_by=cleared_by)
    return summary


def decision(row: rows.AnyRow, codec: PayloadCodec) -> Decision:
    """Return a decision with secrets masked: in its note, its result, and the name that a caller gave."""
    found = audit_rows.decision_from_row(row, codec)
    result = found.result if found.result is None else mask_value(as_json(found.result))
    return replace(found, note=_masked(found.note), display_name=_masked(found.display_name), result=result)


def _masked(text: Text) -> Text:
    return mask_text(text) if text else text


def event(row: rows.AnyRow, codec: PayloadCodec) -> AuditEvent:
    """Return an audit event with secrets in its note and payload masked."""
    found = audit_rows.event_from_row(row, codec)
    payload = mask_value(as_json(found.payload)) if found.payload else found.payload
    return replace(found, note=_masked(found.note), payload=payload)


def step_event(run_id: str, record: StepRecord) -> AuditEvent:
    """Return the event that a step record stands for, with the secrets in its message masked.

    Everything else in it is a name, a number or a hash: looking through those would cost ten times as much.
    """
    found = audit.step_event(run_id, record)
    if not record.error_message:
        return found
    return replace(found, payload=found.payload | {"error_message": mask_text(record.error_message)})


def step_fields(step: dict[str, Any]) -> dict[str, Any]:
    """Return a record, as `StepRecord.to_dict` wrote it, with its secrets masked."""
    message = step["error_message"]
    return step | {
        "input_data": mask_value(step["input_data"]),
        "output_data": mask_value(step["output_data"]),
        "error_message": mask_text(message) if message else message,
    }


def metadata(codec: PayloadCodec, text: str) -> dict[str, Any]:
    """Return the metadata of a run as JSON values with its secrets masked."""
    found: dict[str, Any] = json.loads(mask_json_text(shown_json(codec, text)))
    return found
