"""Who calls the API: the key in the Authorization header, and what it may touch."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass

from flask import g, request

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Permission, Role, role_allows
from resume_engine.core.run import Environment
from webapp import cors, csrf
from webapp.demo.run_ids import DEMO_RUN_IDS
from webapp.errors import AccessDeniedError, KeyMisplacedError, KeyMissingError, TooManyRequestsError
from webapp.extensions import services
from webapp.keys.records import KEY_PATTERN, KeyRefusedError
from webapp.refusals import tell_denied, tell_refused_key

KEY_PARAMETERS = frozenset({"api_key", "apikey", "key", "access_token", "token"})
_KEY_BYTES = re.compile(KEY_PATTERN.pattern.encode())


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Somebody with a key; `environments` None means any, `demo_only` no run but those of the demo."""

    actor: Actor
    key_id: str | None = None
    environments: tuple[Environment, ...] | None = None
    demo_only: bool = False

    def may(self, permission: Permission) -> bool:
        """Return whether the caller holds `permission`; a key for the demo decides, and runs nothing."""
        if self.demo_only and permission is Permission.RUNS_WRITE:
            return False
        return role_allows(self.actor.role, permission)


def current_caller() -> Caller:
    """Return who makes this request; raise `KeyMissingError`, `KeyRefusedError` or `KeyMisplacedError`."""
    if "api_caller" not in g:
        g.api_caller = _identify()
    found: Caller = g.api_caller
    return found


def count_request() -> None:
    """Raise `TooManyRequestsError` when this caller comes more often than API_RATE_LIMIT allows."""
    wait = services().guard.wait_of(current_caller().actor.name)
    if wait > 0:
        raise TooManyRequestsError(
            "This key is used more often than this server allows. Nothing was changed.", retry_after=wait
        )


def refuse_demo_key() -> None:
    """Raise `AccessDeniedError` when the key is for the demo runs only."""
    caller = current_caller()
    if caller.demo_only:
        tell_denied(caller.actor, "a key for other runs than those of the demo")
        raise AccessDeniedError("This key is for the three runs of the demo: GET /demo/runs lists them.")


def refuse_to_cancel() -> None:
    """Raise `AccessDeniedError` when the key is one that may not end a run for good."""
    caller = current_caller()
    if caller.demo_only:
        tell_denied(caller.actor, "a key that may cancel runs")
        raise AccessDeniedError("A key for the demo opens gates; it cancels no run.")


def assert_may_touch(environment: Environment, run_id: str | None = None) -> None:
    """Raise `AccessDeniedError` when the key is for other environments or for the demo runs only."""
    if run_id not in DEMO_RUN_IDS:
        refuse_demo_key()
    caller = current_caller()
    if caller.environments is not None and environment not in caller.environments:
        tell_denied(caller.actor, f"a key for {environment}")
        raise AccessDeniedError(f"This key is for {', '.join(caller.environments)}, not for {environment}.")


def _identify() -> Caller:
    if KEY_PARAMETERS & request.args.keys() or _KEY_BYTES.search(request.query_string):
        raise KeyMisplacedError
    settings = services().settings
    if not settings.api_auth_enabled:
        if not csrf.is_own_site() and not cors.is_shared_origin():
            raise AccessDeniedError("This request came from another site. Nothing was changed.")
        return Caller(actor=Actor(name="anonymous", role=Role.OPERATOR, channel=Channel.API))
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise KeyMissingError
    _limit_guesses(text)
    return _from_settings(text) or _from_database(text)


def _limit_guesses(text: str) -> None:
    """Raise `TooManyRequestsError` when too many keys that do not work came from here to look at another."""
    wait = services().guard.wait_of_guess(_address(), text)
    if wait > 0:
        raise TooManyRequestsError(
            "Too many keys that do not work came from this address. This one was not looked at.",
            retry_after=wait,
        )


def _address() -> str:
    return request.remote_addr or "unknown"


def _from_settings(text: str) -> Caller | None:
    settings = services().settings
    if settings.demo_operator_key is not None and _equal(settings.demo_operator_key, text):
        actor = Actor(name="key demo operator", role=Role.OPERATOR, channel=Channel.API)
        services().guard.worked(_address(), text)
        return Caller(actor=actor, demo_only=True)
    for known, role in settings.api_keys.items():
        if _equal(known, text):
            # Named by what it is, not by its place: another key before it must not make it another caller.
            name = f"key {services().keys.mark_of(known)} of API_KEYS_JSON"
            services().guard.worked(_address(), text)
            return Caller(actor=Actor(name=name, role=role, channel=Channel.API))
    return None


def _from_database(text: str) -> Caller:
    guard = services().guard
    try:
        key = services().keys.authenticate(text)
    except KeyRefusedError as refused:
        guard.failed(text)
        tell_refused_key(refused, _address())
        raise
    guard.worked(_address(), text)
    return Caller(actor=key.actor, key_id=key.key_id, environments=key.environments)


def _equal(known: str, given: str) -> bool:
    return hmac.compare_digest(known.encode(), given.encode("utf-8", "surrogateescape"))
