"""The one place that writes audit events.

Events of a change stand in the chain of their run, which the change itself moves on. Everything else stands
in one stream, `control`, whose last entry is a row that a writer holds until its transaction ends.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from resume_engine.core.audit import AuditEvent
from resume_engine.core.audit_chain import CONTROL, Link, event_link
from resume_engine.storage import audit_rows
from resume_engine.storage.payload_codec import PLAIN, PayloadCodec
from resume_engine.storage.schema import audit_events, audit_streams


def insert_in_tx(
    conn: Connection, event: AuditEvent, stream: str, link: Link, codec: PayloadCodec = PLAIN
) -> None:
    """Write an event at its place in a stream whose head the caller moves on in the same transaction."""
    values = audit_rows.event_values(event, codec) | audit_rows.event_link_values(stream, link)
    conn.execute(insert(audit_events), values)


def append_in_tx(conn: Connection, event: AuditEvent, codec: PayloadCodec = PLAIN) -> None:
    """Write an event that belongs to no change of a run, at the end of the control stream.

    Writers take turns from here to the end of their transaction: let it be the last thing they do.
    """
    head = _locked_head(conn)
    link = event_link(CONTROL, head.chain_seq, head.chain_head or None, event)
    insert_in_tx(conn, event, CONTROL, link, codec)
    conn.execute(
        update(audit_streams)
        .where(audit_streams.c.stream == CONTROL)
        .values(chain_seq=link.seq, chain_head=link.hash)
    )


def _locked_head(conn: Connection) -> Any:
    query = select(audit_streams).where(audit_streams.c.stream == CONTROL).with_for_update()
    found = conn.execute(query).one_or_none()
    if found is not None:
        return found
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    first = dialect.insert(audit_streams).values(stream=CONTROL, chain_seq=0, chain_head="")
    conn.execute(first.on_conflict_do_nothing())
    return conn.execute(query).one()
