"""The records of a run as JSON text, put together from what is stored: what `StepRecord.to_dict` gives.

Payloads are stored as JSON already. To read them and write them again is most of the work of showing a long
run; here they stay text, and only what has to be masked is looked at. The work goes column by column, so that
Python's own loops do it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

from resume_engine.core.masking import mask_json_text, mask_text, may_hold_secrets
from resume_engine.storage.derived_inputs import MARK, input_texts, is_plain, moves_state
from resume_engine.storage.moment_texts import StoredMoment, moment_texts
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import step_records


class _Columns(NamedTuple):
    """The columns of records as the driver gives them, by their names."""

    step_name: Sequence[str]
    step_index: Sequence[int]
    input_json: Sequence[str]
    input_hash: Sequence[str]
    output_json: Sequence[str | None]
    status: Sequence[str]
    idempotency_key: Sequence[str]
    timestamp: Sequence[str]
    failure_classification: Sequence[str | None]
    error_message: Sequence[str | None]
    sequence: Sequence[int]
    attempt: Sequence[int]
    started_at: Sequence[str | None]
    duration_ms: Sequence[int | None]
    error_type: Sequence[str | None]
    classified_by: Sequence[str | None]
    worker: Sequence[str | None]
    kind: Sequence[str]


COLUMNS = tuple(
    StoredMoment(step_records.c[name]) if name in ("timestamp", "started_at") else step_records.c[name]
    for name in _Columns._fields
)
_SHOWN = (
    "step_name step_index input_data input_hash output_data status idempotency_key timestamp "
    "failure_classification error_message sequence attempt started_at duration_ms error_type classified_by "
    "worker"
)
_OBJECT = "{" + ", ".join(f'"{name}": %s' for name in _SHOWN.split()) + "}"
"""A test holds it together with `StepRecord.to_dict`."""


def step_texts(found: Sequence[Sequence[Any]], codec: PayloadCodec, *, masked: bool) -> list[str] | None:
    """Return one JSON object for each row of `COLUMNS`, by sequence; None if they have to be read as objects.

    That is so where an input follows from values that JSON lacks. Raises a `PayloadError` for what is sealed
    with a key that is not here.
    """
    if not found:
        return []
    steps = _Columns(*zip(*found, strict=True))
    given = [text if text.startswith(MARK) else codec.unseal(text) for text in steps.input_json]
    gave = ["null" if text is None else codec.unseal(text) for text in steps.output_json]
    payloads = "\n".join([*given, *gave])
    follows = any(text.startswith(MARK) for text in given)
    if follows and not is_plain(payloads):
        return None
    mask = mask_json_text if masked and may_hold_secrets(payloads) else None
    values = (
        map(quoted, steps.step_name),
        steps.step_index,
        _inputs(steps, given, gave, mask) if follows else _shown(given, mask),
        map(quoted, steps.input_hash),
        _shown(gave, mask),
        map(quoted, steps.status),
        map(quoted, steps.idempotency_key),
        moment_texts(steps.timestamp),
        string_texts(steps.failure_classification),
        string_texts(_errors(steps, codec, masked)),
        steps.sequence,
        steps.attempt,
        moment_texts(steps.started_at),
        ("null" if number is None else number for number in steps.duration_ms),
        string_texts(steps.error_type),
        string_texts(steps.classified_by),
        string_texts(steps.worker),
    )
    return [_OBJECT % step for step in zip(*values, strict=True)]


def string_texts(found: Iterable[str | None]) -> list[str]:
    """Return texts as JSON strings, and null for none."""
    return ["null" if text is None else quoted(text) for text in found]


def _shown(texts: Sequence[str], mask: Callable[[str], str] | None) -> Iterable[str]:
    return texts if mask is None else map(mask, texts)


def _inputs(
    steps: _Columns, given: Sequence[str], gave: Sequence[str], mask: Callable[[str], str] | None
) -> Iterable[str]:
    moving = map(moves_state, steps.status, steps.kind)
    outputs = json.loads(f"[{','.join(gave)}]")  # in one go
    return input_texts(zip(steps.sequence, moving, given, outputs, strict=True), mask)


def _errors(steps: _Columns, codec: PayloadCodec, masked: bool) -> Iterable[str | None]:
    for stored in steps.error_message:
        message = None if stored is None else codec.decode_text(stored)
        yield mask_text(message) if masked and message is not None else message
