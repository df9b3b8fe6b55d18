"""A whole run as JSON text, as the API and clients of release 0.2.0 know it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from resume_engine.core.masking import mask_value
from resume_engine.storage import previews, rows
from resume_engine.storage.driver import asked_again
from resume_engine.storage.run_reader import RunReader, steps_of
from resume_engine.storage.step_texts import COLUMNS, step_texts


@asked_again
def load_run_text(store: RunReader, run_id: str, *, masked: bool) -> str | None:
    """Return what `Run.to_dict` gives of a run, as JSON text, with secrets masked if so asked; or None.

    Three statements. Raises a `PayloadError` when a payload cannot be read here.
    """
    with store.reading() as conn:
        head = store.head_in_tx(conn, run_id)
        if head is None:
            return None
        # As the driver gives them: a thousand rows as objects of their own take longer than all the rest.
        found: Sequence[Any] = conn.execute(steps_of(run_id, select(*COLUMNS))).cursor.fetchall()
    texts = step_texts(found, store.codec, masked=masked)
    if texts is None:
        return _through_records(store, run_id, masked)
    fields = rows.run_from_row(*head, []).to_dict()
    fields.pop("steps")
    if masked:
        fields["metadata"] = mask_value(fields["metadata"])
    return f'{json.dumps(fields)[:-1]}, "steps": [{", ".join(texts)}]}}'


def _through_records(store: RunReader, run_id: str, masked: bool) -> str | None:
    run = store.get_run(run_id)
    if run is None:
        return None
    found = run.to_dict()
    if masked:
        steps = [previews.step_fields(step) for step in found["steps"]]
        found |= {"metadata": mask_value(found["metadata"]), "steps": steps}
    return json.dumps(found)
