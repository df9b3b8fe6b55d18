"""Inputs that are not stored because they follow from the record, and the one place that makes them again.

A step of a workflow is given the input of the step before it, merged with that one's output. So only the
first record of an execution keeps its input; those behind it keep a mark with the sequence of that record.
What was given is its input, merged with the outputs of the completed steps from there on, in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from resume_engine.core import codec as payloads
from resume_engine.core.errors import PayloadUnreadableError
from resume_engine.core.step_record import COMPLETED_STATUSES, StepKind, StepRecord
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import status_is, step_records

MARK = "="  # no JSON and nothing sealed begins like this
UNREAD = '{"follows": "from the record; open the step to see it"}'
"""What a list of steps has in place of such an input: making it again means to read what came before."""

_STEP = StepKind.STEP.value
_WRITERS: dict[type, Callable[[Any], str]] = {str: _quoted, int: str, bool: ("false", "true").__getitem__}
"""How the commonest values are written: `json.dumps` takes ten times as long for each of them."""


def mark_of(record: StepRecord) -> str | None:
    """Return what is stored in place of an input that follows from the record; None for any other."""
    # An attempt that failed keeps its input: a retry must get exactly that, whatever becomes of the rest.
    if record.follows_from is None or not record.is_completed:
        return None
    return f"{MARK}{record.follows_from}"


def is_stored(column: Any) -> ColumnElement[bool]:
    """Return the condition that an input column holds the input itself."""
    return func.substr(column, 1, 1) != MARK


class RunInputs:
    """Give the rows of one run their inputs, asked in order of sequence from a record that keeps its own."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec
        self._first = -1
        self._state: dict[str, Any] = {}

    def before(self, row: Any) -> dict[str, Any]:
        """Return the input of the next row."""
        stored: str = row.input_json
        if self._follows(stored):
            return dict(self._state)
        given: dict[str, Any] = self._codec.decode(stored)
        if moves_state(row.status, row.kind):
            self._first, self._state = row.sequence, dict(given)
        return given

    def after(self, row: Any, output: dict[str, Any] | None) -> None:
        """Merge the output of the row that was asked for."""
        if output and moves_state(row.status, row.kind):
            self._state |= output

    def _follows(self, stored: str) -> bool:
        if not stored.startswith(MARK):
            return False
        _assert_behind(stored, self._first)
        return True


def input_texts(
    steps: Iterable[tuple[int, bool, str, dict[str, Any] | None]], mask: Callable[[str], str] | None
) -> Iterator[str]:
    """Yield the inputs of the records of one run as JSON text, as `RunInputs` gives them as objects.

    Each step is its sequence, whether it moves the state, the text of its input column, unsealed, and its
    output. Only for payloads of plain JSON (`is_plain`). `mask` is what fields and whole inputs are shown
    through. A field is written once, when it comes into the state, not for every step.
    """
    first = -1
    fields: dict[str, str] = {}  # name -> `"name": value`, in the order in which they came
    for sequence, moves, text, output in steps:
        if text.startswith(MARK):
            _assert_behind(text, first)
            yield f"{{{', '.join(fields.values())}}}"
        else:
            if moves:
                first, fields = sequence, {}
                _write(json.loads(text), fields, mask)
            yield text if mask is None else mask(text)
        if moves and output:
            _write(output, fields, mask)


def _write(values: dict[str, Any], fields: dict[str, str], mask: Callable[[str], str] | None) -> None:
    for name, value in values.items():
        text = f"{_quoted(name)}: {_WRITERS.get(type(value), json.dumps)(value)}"
        fields[name] = text if mask is None else mask(text)


def _assert_behind(mark: str, first: int) -> None:
    if int(mark[len(MARK) :]) != first:
        raise PayloadUnreadableError(f"it follows from record {mark[len(MARK) :]}, which is not there")


def is_plain(text: str) -> bool:
    """Return whether payload text holds no marks of the codec, so that its fields can stand by themselves."""
    return payloads.TAG not in text and payloads.ENVELOPE not in text


def moves_state(status: str, kind: str) -> bool:
    """Return whether what a record was given and gave out is what those behind it build on."""
    return kind == _STEP and status in COMPLETED_STATUSES


def inputs_behind(conn: Connection, codec: PayloadCodec, run_id: str, after: int) -> RunInputs:
    """Return what gives the rows of a run behind one sequence their inputs, what they follow from read."""
    inputs = RunInputs(codec)
    if after < 0:
        return inputs
    query = (
        select(step_records.c.input_json)
        .where(step_records.c.run_id == run_id, step_records.c.sequence > after)
        .where(func.substr(step_records.c.input_json, 1, 1) == MARK)
        .order_by(step_records.c.sequence)
        .limit(1)
    )
    mark = conn.execute(query).scalar()
    if mark is not None:
        for row in conn.execute(_completed_rows(run_id, int(mark[1:]), after)):
            inputs.before(row)
            inputs.after(row, None if row.output_json is None else codec.decode(row.output_json))
    return inputs


def load_input(conn: Connection, codec: PayloadCodec, run_id: str, sequence: int, stored: str) -> Any:
    """Return the input of one record, `stored` being what its column holds."""
    if not stored.startswith(MARK):
        return codec.decode(stored)
    inputs = RunInputs(codec)
    for row in conn.execute(_completed_rows(run_id, int(stored[1:]), sequence)):
        given = inputs.before(row)
        if row.sequence == sequence:
            return given
        inputs.after(row, None if row.output_json is None else codec.decode(row.output_json))
    raise PayloadUnreadableError("its record is no longer there")


def _completed_rows(run_id: str, first: int, last: int) -> Select[Any]:
    return (
        select(
            step_records.c.sequence,
            step_records.c.kind,
            step_records.c.status,
            step_records.c.input_json,
            step_records.c.output_json,
        )
        .where(step_records.c.run_id == run_id, status_is(*COMPLETED_STATUSES))
        .where(step_records.c.sequence >= first, step_records.c.sequence <= last)
        .order_by(step_records.c.sequence, step_records.c.legacy_duplicate)
    )


def load_input_text(conn: Connection, codec: PayloadCodec, run_id: str, sequence: int, stored: str) -> str:
    """Return the JSON text of the input of one record."""
    if not stored.startswith(MARK):
        return codec.unseal(stored)
    return payloads.dumps(load_input(conn, codec, run_id, sequence, stored))
