"""For probes: is the process up, and can it work?"""

from __future__ import annotations

import logging

from flask import Blueprint
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from resume_engine.core.errors import SchemaError
from resume_engine.storage.audit_state import load_audit_state
from resume_engine.storage.clock_difference import clock_difference
from resume_engine.storage.schema_version import found_schema, raise_unless_head
from webapp.extensions import current_store
from webapp.permissions import public

CLOCK_TOLERANCE_SECONDS = 5.0
logger = logging.getLogger(__name__)
blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
@public
def health() -> ResponseReturnValue:
    """Say that the process answers."""
    return {"status": "ok"}


@blueprint.get("/ready")
@public
def ready() -> ResponseReturnValue:
    """Say whether the database answers and has this schema, how far clocks are apart, what is not sealed."""
    store = current_store()
    try:
        with store.reading() as conn:
            schema = found_schema(conn)
            raise_unless_head(schema)
            off = clock_difference(store, conn)
        audit = load_audit_state(store)
    except SQLAlchemyError:
        logger.warning("not ready: the database does not answer", exc_info=True)
        return {"status": "unavailable", "reason": "the database does not answer"}, 503
    except SchemaError:
        logger.warning("not ready", exc_info=True)
        return {"status": "unavailable", "reason": "the database has the schema of another release"}, 503
    if abs(off) > CLOCK_TOLERANCE_SECONDS:
        # Leases go by the database's clock; sessions and keys end by this one.
        logger.warning("the clock of this server is %.1f s off that of the database", off)
    if audit.is_late:
        # Everything works without it; what is not sealed yet is only not proven yet.
        logger.warning("%s audit events wait for their seal since %s", audit.unsealed, audit.oldest_unsealed)
    return {
        "status": "ok",
        "schema": schema,
        "clock_difference_seconds": round(off, 3),
        "audit": {
            "sealing": "late" if audit.is_late else "ok",
            "last_checkpoint_at": audit.checkpoint.created_at.isoformat() if audit.checkpoint else None,
            "unsealed_events": audit.unsealed,
        },
    }
