"""Who calls the API: the key in the Authorization header, and what it may touch."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from flask import g, request

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Permission, Role, role_allows
from resume_engine.core.run import Environment
from webapp import csrf
from webapp.demo.run_ids import DEMO_RUN_IDS
from webapp.errors import AccessDeniedError, KeyMisplacedError, KeyMissingError
from webapp.extensions import services

KEY_PARAMETERS = frozenset({"api_key", "apikey", "key", "access_token", "token"})


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Somebody with a key; `environments` None means any, `demo_only` no run but those of the demo."""

    actor: Actor
    key_id: str | None = None
    environments: tuple[Environment, ...] | None = None
    demo_only: bool = False

    def may(self, permission: Permission) -> bool:
        """Return whether the caller's role holds `permission`."""
        return role_allows(self.actor.role, permission)


def current_caller() -> Caller:
    """Return who makes this request; raise `KeyMissingError`, `KeyRefusedError` or `KeyMisplacedError`."""
    if "api_caller" not in g:
        g.api_caller = _identify()
    found: Caller = g.api_caller
    return found


def assert_may_touch(environment: Environment, run_id: str | None = None) -> None:
    """Raise `AccessDeniedError` when the key is for other environments or for the demo runs only."""
    caller = current_caller()
    if caller.demo_only and run_id not in DEMO_RUN_IDS:
        raise AccessDeniedError("This key is for the three runs of the demo: GET /demo/runs lists them.")
    if caller.environments is not None and environment not in caller.environments:
        raise AccessDeniedError(f"This key is for {', '.join(caller.environments)}, not for {environment}.")


def _identify() -> Caller:
    if KEY_PARAMETERS & request.args.keys():
        raise KeyMisplacedError
    settings = services().settings
    if not settings.api_auth_enabled:
        if not csrf.is_own_site():
            raise AccessDeniedError("This request came from another site. Nothing was changed.")
        return Caller(actor=Actor(name="anonymous", role=Role.OPERATOR, channel=Channel.API))
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise KeyMissingError
    return _from_settings(text) or _from_database(text)


def _from_settings(text: str) -> Caller | None:
    settings = services().settings
    if settings.demo_operator_key is not None and _equal(settings.demo_operator_key, text):
        actor = Actor(name="key demo operator", role=Role.OPERATOR, channel=Channel.API)
        return Caller(actor=actor, demo_only=True)
    for number, (known, role) in enumerate(settings.api_keys.items(), start=1):
        if _equal(known, text):
            actor = Actor(name=f"key {number} of API_KEYS_JSON", role=role, channel=Channel.API)
            return Caller(actor=actor)
    return None


def _from_database(text: str) -> Caller:
    key = services().keys.authenticate(text)
    return Caller(actor=key.actor, key_id=key.key_id, environments=key.environments)


def _equal(known: str, given: str) -> bool:
    return hmac.compare_digest(known.encode(), given.encode("utf-8", "surrogateescape"))
