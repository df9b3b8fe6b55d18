"""Compare the decisions of a run with the events that tell of them: each has one, and both say the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from resume_engine.core.audit_chain import moment_text
from resume_engine.core.codec import as_json
from resume_engine.core.decision import DecisionKind
from resume_engine.core.decisions import EVENT_OF_KIND
from resume_engine.core.errors import PayloadError
from resume_engine.core.payload import storable
from resume_engine.storage import rows
from resume_engine.storage.payload_codec import LockedText, PayloadCodec
from resume_engine.storage.schema import decisions
from resume_engine.storage.table_base import as_stored, unlike_its_column

KIND_OF_EVENT: dict[str, DecisionKind] = {event.value: kind for kind, event in EVENT_OF_KIND.items()}
"""The decision that an event of this type tells of."""

COLUMNS = as_stored(decisions.c)
"""What a row of a decision has to hold to be compared."""

Gate = tuple[str, str]
Said = dict[str, Any]


class DecisionCheck:
    """Take in the events of one run, then say which decision is not what they tell.

    The events stand in the chain, so they are right. What cannot be opened without a key is left out.
    """

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec
        self._told: dict[Gate, list[Said]] = defaultdict(list)

    def take(self, row: rows.AnyRow) -> Said | None:
        """Note what an event tells of a decision, and return it; None for other events."""
        kind = KIND_OF_EVENT.get(row.event_type)
        if kind is None:
            return None
        said = _told(row, self._codec)
        self._told[(row.failure_key, kind.value)].append(said)
        return said

    def problem(self, decided: Iterable[rows.AnyRow]) -> str | None:
        """Return what is wrong with the rows of the run's decisions, `COLUMNS` of each, by their ordinals."""
        found: dict[Gate, list[rows.AnyRow]] = defaultdict(list)
        for row in decided:
            wrong = unlike_its_column(COLUMNS, row)
            if wrong is not None:
                return f"one of its decisions cannot be read: {wrong}"
            found[(row.failure_key, row.kind)].append(row)
        for gate in [*self._told, *(gate for gate in found if gate not in self._told)]:
            for problem in _unlike(gate, self._told.get(gate, []), found.get(gate, []), self._codec):
                return problem
        return None


def _unlike(gate: Gate, told: list[Said], found: list[rows.AnyRow], codec: PayloadCodec) -> Iterator[str]:
    what = f"the decision {gate[1]} about {gate[0]}"
    for said, row in zip(told, found, strict=False):
        recorded = _recorded(row, codec)
        wrong = [name for name, value in said.items() if name in recorded and recorded[name] != value]
        if wrong:
            yield f"{what} by {said['actor']} is not what its event tells ({', '.join(wrong)})"
    for said in told[len(found) :]:
        yield f"{what} by {said['actor']} is not among the decisions"
    for row in found[len(told) :]:
        yield f"{what} by {row.actor} has no event"


def _told(row: rows.AnyRow, codec: PayloadCodec) -> Said:
    """Return what an event says of its decision, by the columns of that."""
    said: Said = {
        "kind": KIND_OF_EVENT[row.event_type].value,
        "actor": row.actor,
        "role": row.role,
        "channel": row.channel,
        "decided_at": moment_text(row.created_at),
    }
    note = rows.decode_text(row.note, codec)
    if not isinstance(note, LockedText):
        said["note"] = note
    try:
        payload = as_json(codec.decode(row.payload_json))
    except (PayloadError, ValueError):
        return said  # locked, or the walk along the chain says what is wrong with it
    if not isinstance(payload, dict) or payload.get("carried_over"):
        return said  # of a decision of 0.2.0 the event tells no more
    if "opened" in payload or "made_on" not in payload:  # events of adopted decisions did not always tell it
        said["opened"] = int(bool(payload.get("opened", True)))
    return said | {
        "display_name": payload.get("display_name"),
        "expires_at": _moment(payload.get("expires_at")),
        "result": payload.get("result"),
        "step_sequence": payload.get("step_sequence"),
    }


def _recorded(row: rows.AnyRow, codec: PayloadCodec) -> Said:
    recorded: Said = {
        "actor": storable(row.actor)[:255],
        "role": row.role,
        "channel": row.channel,
        "decided_at": moment_text(row.decided_at),
        "display_name": row.display_name,
        "opened": row.opened,
        "expires_at": moment_text(row.expires_at),
        "step_sequence": row.step_sequence,
    }
    note = rows.decode_text(row.note, codec)
    if not isinstance(note, LockedText):
        recorded["note"] = note
    try:
        recorded["result"] = None if row.result_json is None else as_json(codec.decode(row.result_json))
    except PayloadError:
        pass  # sealed with a key that is not here
    except ValueError:
        recorded["result"] = row.result_json  # what cannot be read is not what was written
    return recorded


def _moment(text: object) -> str | None:
    try:
        return moment_text(datetime.fromisoformat(str(text))) if text else None
    except ValueError:
        return str(text)
