"""The records of a run as JSON text, put together from what is stored: what `StepRecord.to_dict` gives.

Payloads are stored as JSON already. To read them and write them again is most of the work of showing a long
run; here they stay text, and only what has to be masked is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

from resume_engine.core.clock import as_utc
from resume_engine.core.masking import mask_json_text, mask_text, may_hold_secrets
from resume_engine.storage.derived_inputs import MARK, InputTexts, is_plain
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import step_records


class StoredStep(NamedTuple):
    """One row as the driver gives it, by the names of the columns."""

    step_name: str
    step_index: int
    input_json: str
    input_hash: str
    output_json: str | None
    status: str
    idempotency_key: str
    timestamp: Any
    failure_classification: str | None
    error_message: str | None
    sequence: int
    attempt: int
    started_at: Any
    duration_ms: int | None
    error_type: str | None
    classified_by: str | None
    worker: str | None
    kind: str


_SQLITE_MOMENT = len("2026-11-20 15:00:00.000001")
COLUMNS = tuple(step_records.c[name] for name in StoredStep._fields)


def step_texts(found: Sequence[Sequence[Any]], codec: PayloadCodec, *, masked: bool) -> list[str] | None:
    """Return one JSON object for each row of `COLUMNS`, by sequence; None if they have to be read as objects.

    That is so where an input follows from values that JSON lacks. Raises a `PayloadError` for what is sealed
    with a key that is not here.
    """
    rows = [StoredStep._make(row) for row in found]
    given = [_unsealed(row.input_json, codec) for row in rows]
    gave = ["null" if row.output_json is None else codec.unseal(row.output_json) for row in rows]
    payloads = "\n".join([*given, *gave])
    follows = any(text.startswith(MARK) for text in given)
    if follows and not is_plain(payloads):
        return None
    mask = mask_json_text if masked and may_hold_secrets(payloads) else None
    inputs = _inputs(rows, given, gave, InputTexts(codec, mask)) if follows else _shown(given, mask)
    errors = (_error(row, codec, masked) for row in rows)
    return list(map(_text, rows, inputs, _shown(gave, mask), errors))


def _shown(texts: Sequence[str], mask: Callable[[str], str] | None) -> Iterable[str]:
    return texts if mask is None else map(mask, texts)


def _inputs(
    rows: Sequence[StoredStep], given: Sequence[str], gave: Sequence[str], texts: InputTexts
) -> Iterator[str]:
    outputs = json.loads(f"[{','.join(gave)}]")  # in one go
    for row, text, output in zip(rows, given, outputs, strict=True):
        yield texts.text_before(row, text)
        texts.text_after(row, output)


def _unsealed(stored: str, codec: PayloadCodec) -> str:
    return stored if stored.startswith(MARK) else codec.unseal(stored)


def _error(row: StoredStep, codec: PayloadCodec, masked: bool) -> str | None:
    if row.error_message is None:
        return None
    message = codec.decode_text(row.error_message)
    return mask_text(message) if masked else message


def _text(row: StoredStep, given: str, gave: str, error: str | None) -> str:
    """Return a record's object; a test holds it together with `StepRecord.to_dict`."""
    failure = row.failure_classification
    return (
        f'{{"step_name": {quoted(row.step_name)}, "step_index": {row.step_index}, "input_data": {given}, '
        f'"input_hash": {quoted(row.input_hash)}, "output_data": {gave}, "status": {quoted(row.status)}, '
        f'"idempotency_key": {quoted(row.idempotency_key)}, "timestamp": {moment_text(row.timestamp)}, '
        f'"failure_classification": {string_text(failure)}, "error_message": {string_text(error)}, '
        f'"sequence": {row.sequence}, "attempt": {row.attempt}, "started_at": {moment_text(row.started_at)}, '
        f'"duration_ms": {"null" if row.duration_ms is None else row.duration_ms}, '
        f'"error_type": {string_text(row.error_type)}, "classified_by": {string_text(row.classified_by)}, '
        f'"worker": {string_text(row.worker)}}}'
    )


def moment_text(raw: Any) -> str:
    """Return a moment, as the driver gives it, as a JSON string in ISO 8601, UTC; null for none."""
    if raw is None:
        return "null"
    if not isinstance(raw, str):
        return f'"{as_utc(raw).isoformat()}"'
    if len(raw) == _SQLITE_MOMENT and not raw.endswith(".000000"):
        return f'"{raw[:10]}T{raw[11:]}+00:00"'
    return f'"{datetime.fromisoformat(f"{raw}+00:00").isoformat()}"'


def string_text(value: str | None) -> str:
    """Return a text as JSON."""
    return "null" if value is None else quoted(value)
