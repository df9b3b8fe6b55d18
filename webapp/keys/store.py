"""The SQL of API keys. Each change and its audit event are one transaction."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import insert, select, update

from resume_engine.core import clock
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from resume_engine.storage.schema import api_keys
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.accounts.store import insert_event_in_tx
from webapp.keys.records import (
    KEY_PATTERN,
    ApiKey,
    KeyChangeError,
    KeyHashing,
    KeyRefusedError,
    key_text,
    new_key_text,
)

NAME_MAX_CHARACTERS = 100
TOUCH_EVERY = timedelta(minutes=1)  # use is noted at most this often: one write a minute, not one a request
UNKNOWN = "This key is not known here. Use one from `resume-engine keys create`."


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A key that was just made; its text is shown once and cannot be read again."""

    key: ApiKey
    text: str


class KeyStore:
    """Make, find and revoke keys; whoever may do it has been asked before."""

    def __init__(self, store: SqlCheckpointStore, hashing: KeyHashing) -> None:
        self._store = store
        self._hashing = hashing

    def create(
        self,
        name: str,
        role: Role,
        *,
        actor: Actor,
        expires_at: datetime | None = None,
        environments: Sequence[Environment] | None = None,
    ) -> NewKey:
        """Make a key; raise `KeyChangeError` naming the field that cannot be kept."""
        now = clock.utc_now()
        wanted = name.strip()
        if not 0 < len(wanted) <= NAME_MAX_CHARACTERS or not wanted.isprintable():
            raise KeyChangeError(f"name: give 1 to {NAME_MAX_CHARACTERS} printable characters.")
        if expires_at is not None and expires_at <= now:
            raise KeyChangeError("expires_at: this moment is over already; give one that is to come.")
        key_id, secret = new_key_text()
        values = {
            "key_id": key_id,
            "name": wanted,
            "role": role.value,
            "secret_hash": self._hashing.hash(secret),
            "pepper_id": self._hashing.pepper_id,
            "environments": ",".join(e.value for e in environments) if environments else None,
            "created_at": now,
            "created_by": actor.name[:255],
            "expires_at": expires_at,
        }
        payload = {"key_id": key_id, "name": wanted, "role": role.value}
        with self._store.writing() as conn:
            conn.execute(insert(api_keys).values(values))
            insert_event_in_tx(conn, AuditEvent.by(actor, EventType.KEY_CREATED, now, payload=payload))
            row = conn.execute(select(api_keys).where(api_keys.c.key_id == key_id)).one()
        return NewKey(key=ApiKey.from_row(row), text=key_text(key_id, secret))

    def list_keys(self) -> Sequence[ApiKey]:
        """Return every key, newest first."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.key_id)
        with self._store.asking() as conn:
            return [ApiKey.from_row(row) for row in conn.execute(query)]

    def revoke(self, key_id: str, *, actor: Actor) -> bool:
        """End a key at once; False when there is no such key or it was revoked before."""
        now = clock.utc_now()
        live = (api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
        with self._store.writing() as conn:
            ended = conn.execute(
                update(api_keys).where(*live).values(revoked_at=now, revoked_by=actor.name[:255])
            )
            if ended.rowcount != 1:
                return False
            payload = {"key_id": key_id}
            insert_event_in_tx(conn, AuditEvent.by(actor, EventType.KEY_REVOKED, now, payload=payload))
        return True

    def authenticate(self, text: str) -> ApiKey:
        """Return the live key with this text, noting its use; raise `KeyRefusedError`."""
        found = KEY_PATTERN.fullmatch(text)
        if found is None:
            raise KeyRefusedError(UNKNOWN)
        key_id, secret = found.groups()
        with self._store.asking() as conn:
            row = conn.execute(select(api_keys).where(api_keys.c.key_id == key_id)).one_or_none()
        stored = row.secret_hash if row is not None else self._hashing.hash("")
        given = self._hashing.hash(secret, pepper_id=row.pepper_id if row is not None else None)
        if not hmac.compare_digest(stored, given) or row is None:
            raise KeyRefusedError(UNKNOWN)
        key, now = ApiKey.from_row(row), clock.utc_now()
        if key.revoked_at is not None:
            raise KeyRefusedError("This key was revoked. Ask an administrator for another one.")
        if not key.is_live(now):
            raise KeyRefusedError("This key has expired. Ask an administrator for another one.")
        if key.last_used_at is None or now - key.last_used_at >= TOUCH_EVERY:
            with self._store.writing() as conn:
                conn.execute(update(api_keys).where(api_keys.c.key_id == key_id).values(last_used_at=now))
        return key
