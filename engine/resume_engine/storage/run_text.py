"""A whole run as JSON text, as the API and clients of release 0.2.0 know it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from resume_engine.core.masking import mask_value
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage import previews, run_rows, step_rows
from resume_engine.storage.driver import asked_again
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.run_reader import RUN_ID, RunReader, steps_of
from resume_engine.storage.step_texts import COLUMNS, step_texts

_STEPS = steps_of(RUN_ID, select(*COLUMNS))


class RunText(NamedTuple):
    """A run and what `Run.to_dict` gives of it, as JSON text; None if that was not wanted."""

    summary: RunSummary
    text: str | None


@asked_again
def load_run_text(
    store: RunReader, run_id: str, *, masked: bool, wanted: Callable[[RunSummary], bool] = lambda _: True
) -> RunText | None:
    """Return a run as JSON text, with secrets masked if so asked, or None if there is no such run.

    `wanted` sees the run first, in the same view of the database; unless it says yes no more is read. Three
    statements. Raises what `wanted` raises, and a `PayloadError` when a payload cannot be read here.
    """
    with store.viewing() as conn:
        row = store.row_in_tx(conn, run_id)
        if row is None:
            return None
        summary = run_rows.summary_from_row(row, store.codec)
        if not wanted(summary):
            return RunText(summary, None)
        head = store.decided_in_tx(conn, row)
        texts = _step_texts_in_tx(conn, run_id, store.codec, masked)
    fields = run_rows.run_from_row(*head, []).to_dict()
    fields.pop("steps")
    if masked:
        fields["metadata"] = mask_value(fields["metadata"])
    return RunText(summary, f'{json.dumps(fields)[:-1]}, "steps": [{", ".join(texts)}]}}')


def _step_texts_in_tx(conn: Connection, run_id: str, codec: PayloadCodec, masked: bool) -> Sequence[str]:
    # As the driver gives them: a thousand rows as objects of their own take longer than all the rest.
    found: Sequence[Any] = conn.execute(_STEPS, {"run_id": run_id}).cursor.fetchall()
    texts = step_texts(found, codec, masked=masked)
    if texts is not None:
        return texts
    records = step_rows.steps_from_rows(conn.execute(steps_of(run_id)).all(), codec)
    steps = (record.to_dict() for record in records)
    return [json.dumps(previews.step_fields(step) if masked else step) for step in steps]
