"""Decisions as clients of 0.2.0 send them: inside `metadata["gates"]`, together with all earlier ones.

What a client sends back unchanged, or from an older reading, holds nothing new. What is new is a decision, to
be judged like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class SentDecision:
    """A decision that stands in sent metadata and in no record yet; no key means the current failure."""

    kind: DecisionKind
    failure_key: str | None
    note: str | None = None
    display_name: str | None = None
    result: dict[str, Any] | None = None


def new_decisions(gates: object, decided: Sequence[Decision]) -> list[SentDecision]:
    """Return what `gates` decides beyond `decided`; raise `InvalidValueError` for what is no such thing."""
    # One that was not enough was never shown as granted: somebody else's is another one.
    known = {(decision.kind, decision.failure_key) for decision in decided if decision.opened}
    acknowledged = {decision.decided_at.isoformat() for decision in decided}
    found: dict[tuple[DecisionKind, str | None], SentDecision] = {}
    for kind, key, entry in _entries(_object("gates", gates)):
        given_at = _text("acknowledged_at", entry.get("acknowledged_at"))
        if (kind, key) in known or (key is None and given_at in acknowledged):
            continue
        found.setdefault((kind, key), _sent(kind, key, entry))
    return list(found.values())


def _entries(gates: Mapping[str, Any]) -> Iterator[tuple[DecisionKind, str | None, Mapping[str, Any]]]:
    for name, kind in (
        ("human_approval", DecisionKind.HUMAN_APPROVAL),
        ("prod_resume_ack", DecisionKind.PROD_RESUME_ACK),
    ):
        entry = _object(name, gates.get(name) or {})
        if _is_granted(name, entry, unsaid=False):
            yield kind, _text(name, entry.get("failure_key")), entry
    for name, kind in (
        ("approvals", DecisionKind.HUMAN_APPROVAL),
        ("compensations", DecisionKind.COMPENSATION),
        ("prod_resume_acks", DecisionKind.PROD_RESUME_ACK),
    ):
        for key, entry in _object(name, gates.get(name) or {}).items():
            # 0.2.0 writes down only what was decided, not always that it was granted.
            if _is_granted(name, _object(name, entry), unsaid=True):
                yield kind, key, entry


def _is_granted(name: str, entry: Mapping[str, Any], *, unsaid: bool) -> bool:
    granted = entry.get("granted", unsaid)
    if not isinstance(granted, bool):
        raise InvalidValueError("metadata.gates", f"{name}.granted must be a boolean, found {granted!r:.80}")
    return granted


def _sent(kind: DecisionKind, key: str | None, entry: Mapping[str, Any]) -> SentDecision:
    result = None
    if kind is DecisionKind.COMPENSATION:
        given = entry.get("output") or entry.get("result")
        result = dict(_object("compensations", given)) if given else None
    name = entry.get("approved_by") or entry.get("acknowledged_by")
    return SentDecision(
        kind=kind,
        failure_key=key,
        note=_text("note", entry.get("note")),
        display_name=_text("approved_by", name),
        result=result,
    )


def _object(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValueError("metadata.gates", f"{name} must be an object, found {type(value).__name__}")
    return value


def _text(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidValueError("metadata.gates", f"{name} must be text, found {type(value).__name__}")
    return value
