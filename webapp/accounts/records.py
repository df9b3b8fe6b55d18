"""The records of this package: people, their sessions, their sign-in links."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from resume_engine.core.permissions import PEOPLE_ROLES
from webapp.accounts.browser_name import browser_name

IDLE_LIMIT = timedelta(minutes=30)
ABSOLUTE_LIMIT = timedelta(hours=12)
REFERENCE_CHARACTERS = 16


class AccountError(Exception):
    """An account was not changed; the message says why, for the person who asked."""


class Purpose(StrEnum):
    """What a sign-in link is for."""

    INVITE = "invite"  # a new person, who then chooses a password
    SIGN_IN = "sign_in"  # somebody who cannot or need not use a password


LINK_LIFETIME = {Purpose.INVITE: timedelta(hours=24), Purpose.SIGN_IN: timedelta(hours=1)}


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with an account, as Flask-Login and the templates see them."""

    user_id: int
    email: str
    display_name: str
    role: str  # a Role, unless the database holds a word that this release does not know
    created_at: datetime
    has_password: bool = False
    password_changed_at: datetime | None = None
    disabled_at: datetime | None = None

    is_authenticated = True
    is_anonymous = False

    @property
    def is_active(self) -> bool:
        """Return whether the account may be used; an unknown role is as good as none."""
        return self.disabled_at is None and self.role in PEOPLE_ROLES

    def get_id(self) -> str:
        """Return the id as Flask-Login wants it."""
        return str(self.user_id)

    @classmethod
    def from_row(cls, row: Row[Any]) -> Person:
        """Return the person held by a row of `users`."""
        return cls(
            user_id=row.user_id,
            email=row.email,
            display_name=row.display_name,
            role=row.role,
            created_at=row.created_at,
            has_password=row.password_hash is not None,
            password_changed_at=row.password_changed_at,
            disabled_at=row.disabled_at,
        )


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """One signed-in browser."""

    session_hash: str
    user_id: int
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime  # at the latest; earlier when nobody is active
    address: str | None = None
    user_agent: str | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """Return a name for addresses and lists; it does not open the session."""
        return self.session_hash[:REFERENCE_CHARACTERS]

    @property
    def browser(self) -> str:
        """Return the browser in words."""
        return browser_name(self.user_agent)

    def is_alive(self, now: datetime) -> bool:
        """Return whether neither the idle nor the absolute limit has passed."""
        return now < self.expires_at and now - self.last_seen_at < IDLE_LIMIT

    @classmethod
    def from_row(cls, row: Row[Any]) -> SessionRecord:
        """Return the session held by a row of `user_sessions`."""
        return cls(
            session_hash=row.session_hash,
            user_id=row.user_id,
            created_at=row.session_created_at,
            last_seen_at=row.last_seen_at,
            expires_at=row.expires_at,
            address=row.address,
            user_agent=row.user_agent,
            data=json.loads(row.data_json),
        )


def token_hash(token: str) -> str:
    """Return what is stored of a session id or link; a copy of the database opens nothing."""
    return hashlib.sha256(token.encode()).hexdigest()
