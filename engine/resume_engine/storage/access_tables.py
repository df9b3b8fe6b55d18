"""Who may come in: people, their sessions and links, keys of the API, and what these were answered."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table, Text, UniqueConstraint

from resume_engine.storage.table_base import UtcDateTime, metadata

users = Table(
    "users",
    metadata,
    Column("user_id", Integer, primary_key=True, autoincrement=True),
    Column("email", String(255), nullable=False),
    Column("display_name", String(255), nullable=False),
    Column("role", String(32), nullable=False),
    Column("password_hash", String(255)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("password_changed_at", UtcDateTime),
    Column("disabled_at", UtcDateTime),
    UniqueConstraint("email", name="uq_users_email"),
)

user_sessions = Table(
    "user_sessions",
    metadata,
    Column("session_hash", String(64), primary_key=True),
    Column("user_id", Integer, nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("address", String(64)),
    Column("user_agent", String(255)),
    Column("data_json", Text, nullable=False),
)

login_links = Table(
    "login_links",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("user_id", Integer, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
)

login_attempts = Table(
    "login_attempts",
    metadata,
    Column("attempt_id", Integer, primary_key=True, autoincrement=True),
    Column("scope", String(300), nullable=False),
    Column("attempted_at", UtcDateTime, nullable=False),
)
Index("ix_login_attempts_scope", login_attempts.c.scope, login_attempts.c.attempted_at)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(16), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("role", String(32), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("pepper_id", String(16), nullable=False),  # which server secret the hash was keyed with
    Column("environments", String(64)),  # joined by commas; null: any
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(255), nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("revoked_by", String(255)),
    # A rotation makes a second key; both work until the first one ends.
    Column("replaces", String(16)),
    Column("replaced_by", String(16)),
)

# What was answered to a POST with an Idempotency-Key, so that repeating it changes nothing.
stored_answers = Table(
    "stored_answers",
    metadata,
    Column("caller", String(64), primary_key=True),  # the key that asked
    Column("idempotency_key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),  # of method, path and body
    Column("created_at", UtcDateTime, nullable=False),
    Column("status", Integer),  # null: still being worked on
    Column("content_type", String(64)),
    Column("body", Text),
)
Index("ix_stored_answers_created", stored_answers.c.created_at)
