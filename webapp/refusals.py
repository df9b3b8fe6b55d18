"""Audit events about callers that were refused: seldom, so that nobody can fill the database with them."""

from __future__ import annotations

import logging

from flask import request

from resume_engine.core import clock
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import AuditEvent, EventType
from webapp.extensions import services
from webapp.keys.records import KeyRefusedError

logger = logging.getLogger(__name__)


def tell_refused_key(refused: KeyRefusedError, address: str) -> None:
    """Write that a key does not work; `left_out_before` says how often that was not written since."""
    left_out = services().guard.refused_keys.due(refused.key_id or address)
    if left_out is None:
        return
    logger.warning("refused: key %s from %s: %s", refused.key_id or "nobody knows", address, refused.reason)
    services().store.append_event(
        AuditEvent(
            event_type=EventType.KEY_REFUSED.value,
            actor=f"key {refused.key_id}" if refused.key_id else "unknown",
            role="none",
            channel=Channel.API.value,
            created_at=clock.utc_now(),
            payload={
                "address": address,
                "reason": refused.reason,
                "key_id": refused.key_id,
                "left_out_before": left_out,
            },
        )
    )


def tell_denied(actor: Actor, needs: str) -> None:
    """Write that a key may not do this; a program that goes on trying is told of once a minute."""
    left_out = services().guard.denials.due(f"{actor.name} {request.method} {request.endpoint} {needs}")
    if left_out is None:
        return
    logger.warning(
        "refused: %s (%s) %s %r needs %s", actor.name, actor.role, request.method, request.path, needs
    )
    payload = {
        "method": request.method,
        "path": request.path[:500],
        "needs": needs,
        "left_out_before": left_out,
    }
    services().store.append_event(
        AuditEvent.by(actor, EventType.ACCESS_DENIED, clock.utc_now(), payload=payload)
    )
