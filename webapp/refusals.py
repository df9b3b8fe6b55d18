"""Audit events about requests that were refused: seldom, so that nobody can fill the database with them.

The first refusal of a kind is written at once. Those that follow within a while are only counted: the next
event says in `left_out_before` how many there were, and so does the log. Each process counts for itself.
"""

from __future__ import annotations

import logging
from typing import Any

from flask import request
from flask_login import current_user

from resume_engine.core import clock
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.permissions import Role
from webapp.extensions import services
from webapp.keys.limits import Seldom
from webapp.keys.records import KeyRefusedError

logger = logging.getLogger(__name__)

_NOBODY = "unknown"
_PATH_CHARACTERS = 500
_HEADER_CHARACTERS = 200


def tell_refused_key(refused: KeyRefusedError, address: str) -> None:
    """Write that a key does not work."""
    payload = {"address": address, "reason": refused.reason, "key_id": refused.key_id}
    name = f"key {refused.key_id}" if refused.key_id else _NOBODY
    event = _by_nobody(EventType.KEY_REFUSED, Channel.API, payload, name=name)
    _tell(services().guard.refused_keys, refused.key_id or address, event)


def tell_denied(actor: Actor, needs: str) -> None:
    """Write that a person or a key may not do this."""
    payload = _request() | {"needs": needs}
    event = AuditEvent.by(actor, EventType.ACCESS_DENIED, clock.utc_now(), payload=payload)
    _tell(services().guard.denials, f"{actor.name} {request.method} {request.endpoint} {needs}", event)


def tell_foreign(reason: str) -> None:
    """Write that a request did not come from a page of ours, in whose name it was sent, and from where."""
    payload = _request() | {
        "address": request.remote_addr,
        "reason": reason,
        "sent_by": _header("Origin") or _header("Sec-Fetch-Site"),
    }
    if not current_user.is_authenticated:
        # Strangers share a limit of their own: they must not use up that of people who are signed in.
        event = _by_nobody(EventType.ACCESS_FOREIGN, Channel.DASHBOARD, payload)
        _tell(services().guard.foreign_by_strangers, request.remote_addr or "unknown", event)
        return
    actor = Actor(name=current_user.email, role=Role(current_user.role), channel=Channel.DASHBOARD)
    event = AuditEvent.by(actor, EventType.ACCESS_FOREIGN, clock.utc_now(), payload=payload)
    _tell(services().guard.foreign, f"{actor.name} {request.remote_addr} {request.endpoint} {reason}", event)


def _tell(seldom: Seldom, name: str, event: AuditEvent) -> None:
    left_out = seldom.due(name)
    if left_out is None:
        return
    event.payload["left_out_before"] = left_out
    logger.warning("refused: %s (%s), %s: %r", event.actor, event.role, event.event_type, event.payload)
    services().store.append_event(event)


def _by_nobody(
    kind: EventType, channel: Channel, payload: dict[str, Any], *, name: str = _NOBODY
) -> AuditEvent:
    return AuditEvent(
        event_type=kind.value,
        actor=name,
        role="none",
        channel=channel.value,
        created_at=clock.utc_now(),
        payload=payload,
    )


def _request() -> dict[str, Any]:
    return {"method": request.method, "path": request.path[:_PATH_CHARACTERS]}


def _header(name: str) -> str | None:
    return request.headers.get(name, "")[:_HEADER_CHARACTERS] or None
