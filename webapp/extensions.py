"""What belongs to one application: its settings, its store, and the readers built on it."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, current_app

from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.policy import NO_POLICY, Policy
from resume_engine.core.policy_file import read_policy
from resume_engine.storage.audit_queries import AuditQueries
from resume_engine.storage.gate_queries import GateQueries
from resume_engine.storage.open_store import open_store
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.signing import Signer
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_queries import StepQueries
from webapp.accounts.passwords import Passwords
from webapp.accounts.session_store import SessionStore
from webapp.accounts.store import AccountStore
from webapp.keys.guard import Guard
from webapp.keys.records import KeyHashing
from webapp.keys.store import KeyStore
from webapp.settings import Settings

_KEY = "resume_engine"


@dataclass(frozen=True, kw_only=True)
class Services:
    """Hold what requests of one application share; all of it may be used by many threads at once."""

    settings: Settings
    store: SqlCheckpointStore
    engine: ResumeEngine
    accounts: AccountStore
    sessions: SessionStore
    passwords: Passwords
    keys: KeyStore
    guard: Guard
    audit_signer: Signer


def register(app: Flask, settings: Settings, store: SqlCheckpointStore | None) -> None:
    """Attach the services to `app`, on a store of its own if none is given.

    Raises `PolicyFileError` for a policy that cannot be used, before the database is opened.
    """
    policy = read_policy(settings.policy_file) if settings.policy_file else NO_POLICY
    store = store or open_store(settings.database_url)
    app.extensions[_KEY] = Services(
        settings=settings,
        store=store,
        engine=ResumeEngine(store, policy=policy),
        accounts=AccountStore(store),
        sessions=SessionStore(store),
        passwords=Passwords(settings.password_cost),
        keys=KeyStore(store, KeyHashing(pepper=settings.key_pepper)),
        guard=Guard(settings.api_rate_limit, processes=settings.workers),
        audit_signer=settings.audit_signer,
    )


def services(app: Flask | None = None) -> Services:
    """Return the services of `app`, of the current application if none is given."""
    found: Services = (app or current_app).extensions[_KEY]
    return found


def current_settings() -> Settings:
    """Return the settings of the current application."""
    return services().settings


def current_store() -> SqlCheckpointStore:
    """Return the store of the current application."""
    return services().store


def current_policy() -> Policy:
    """Return who may decide what in the current application."""
    return current_engine().policy


def current_engine() -> ResumeEngine:
    """Return an engine on the store of the current application."""
    return services().engine


def run_queries() -> RunQueries:
    """Return the reader of runs of the current application."""
    return RunQueries(current_store())


def step_queries() -> StepQueries:
    """Return the reader of attempts of the current application."""
    return StepQueries(current_store())


def gate_queries() -> GateQueries:
    """Return the reader of gates of the current application."""
    return GateQueries(current_store())


def audit_signer() -> Signer:
    """Return what signs checkpoints of the audit in the current application."""
    return services().audit_signer


def audit_queries() -> AuditQueries:
    """Return the reader of audit events of the current application."""
    return AuditQueries(current_store())
