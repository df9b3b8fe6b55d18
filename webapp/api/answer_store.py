"""The SQL of stored answers: what a POST with an Idempotency-Key was answered, for whoever repeats it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from resume_engine.core import clock
from resume_engine.storage.schema import stored_answers
from resume_engine.storage.sql_store import SqlCheckpointStore

KEPT_FOR = timedelta(days=30)
"""Runs wait for people over weekends and holidays; whoever repeats a call after a month looks first."""
GIVEN_UP_AFTER = timedelta(seconds=60)
"""No request is worked on that long: one without an answer by then died with its process."""
BROKEN_OFF = "broken off"
"""In place of the type of an answer: there will be none. When the request began stays known."""

_HEADERS = re.compile(r"((?:[A-Za-z-]+: [^\n]*\n)+)\n")


class KeyReusedError(Exception):
    """An Idempotency-Key that came with another request before."""


class StillRunningError(Exception):
    """The first request with an Idempotency-Key is still being worked on."""


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """What was answered, byte for byte."""

    status: int
    content_type: str
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Return headers, an empty line and the body, as HTTP writes them; without headers the body alone."""
        lines = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        return f"{lines}\n{self.body}" if lines else self.body

    @classmethod
    def from_text(cls, status: int, content_type: str, text: str) -> Self:
        """Return the answer that was kept as `text`."""
        found = _HEADERS.match(text)
        if found is None:
            return cls(status=status, content_type=content_type, body=text)
        headers = dict(line.split(": ", 1) for line in found[1].splitlines())
        return cls(status=status, content_type=content_type, body=text[found.end() :], headers=headers)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on a request; `retaken` says when an earlier attempt began that died on the way."""

    caller: str
    key: str
    retaken: datetime | None = None


class AnswerStore:
    """Let one of several equal requests work, and give its answer to the others."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    def claim(self, caller: str, key: str, fingerprint: str) -> Claim | StoredAnswer:
        """Return the right to work on a request, or what it was answered before.

        Raises `KeyReusedError` or `StillRunningError`.
        """
        now = clock.utc_now()
        values = {"caller": caller, "idempotency_key": key, "fingerprint": fingerprint, "created_at": now}
        try:
            with self._store.writing() as conn:
                conn.execute(delete(stored_answers).where(stored_answers.c.created_at < now - KEPT_FOR))
                conn.execute(insert(stored_answers).values(values))
            return Claim(caller=caller, key=key)
        except IntegrityError:
            return self._claimed_before(caller, key, fingerprint)

    def _claimed_before(self, caller: str, key: str, fingerprint: str) -> Claim | StoredAnswer:
        now = clock.utc_now()
        mine = (stored_answers.c.caller == caller, stored_answers.c.idempotency_key == key)
        with self._store.writing() as conn:
            row = conn.execute(select(stored_answers).where(*mine)).one_or_none()
            if row is None:  # it was refused meanwhile, and may be tried again
                raise StillRunningError
            if row.fingerprint != fingerprint:
                raise KeyReusedError
            if row.status is not None:
                text = self._store.codec.decode_text(row.body)
                return StoredAnswer.from_text(row.status, row.content_type, text)
            if row.content_type != BROKEN_OFF and now - row.created_at < GIVEN_UP_AFTER:
                raise StillRunningError
            taken = conn.execute(
                update(stored_answers)
                .where(*mine, stored_answers.c.created_at == row.created_at)
                .where(stored_answers.c.status.is_(None))
                .values(created_at=now, content_type=None)
            )
            if taken.rowcount != 1:
                raise StillRunningError
        return Claim(caller=caller, key=key, retaken=row.created_at)

    def keep(self, claim: Claim, answer: StoredAnswer) -> None:
        """Keep an answer for those who repeat the request; it is sealed like the payloads it may quote."""
        with self._store.writing() as conn:
            conn.execute(
                update(stored_answers)
                .where(*_of(claim))
                .values(
                    status=answer.status,
                    content_type=answer.content_type,
                    body=self._store.codec.encode_text(answer.text),
                )
            )

    def release(self, claim: Claim) -> None:
        """Forget a request that changed nothing, so that it can be sent again."""
        with self._store.writing() as conn:
            conn.execute(delete(stored_answers).where(*_of(claim), stored_answers.c.status.is_(None)))

    def give_up(self, claim: Claim) -> None:
        """Let whoever repeats a request that broke off take it over at once; it may have done something."""
        with self._store.writing() as conn:
            conn.execute(update(stored_answers).where(*_of(claim)).values(content_type=BROKEN_OFF))


def _of(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (stored_answers.c.caller == claim.caller, stored_answers.c.idempotency_key == claim.key)
