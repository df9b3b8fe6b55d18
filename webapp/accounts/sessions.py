"""Sessions on the server: the cookie of a signed-in browser holds a random id and nothing else.

Visitors who are not signed in get a small signed cookie, which carries their form token; no row is
written for them. The two never mix: signing in makes a new id and a new form token.
"""

from __future__ import annotations

import copy
import logging
import secrets
from datetime import timedelta
from typing import Any

from flask import Flask, Request, Response, g, request, session
from flask.sessions import SecureCookieSession, SessionInterface
from flask_login import LoginManager, login_user, logout_user
from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy.exc import SQLAlchemyError

from resume_engine.core import clock
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role
from webapp.accounts.records import ABSOLUTE_LIMIT, Person, SessionRecord, token_hash
from webapp.accounts.session_store import CONFIRMED, NewSession
from webapp.errors import UnavailableError
from webapp.extensions import services
from webapp.htmx import is_background

logger = logging.getLogger(__name__)

ID_BYTES = 32  # 256 bits
TOUCH_EVERY = timedelta(minutes=1)  # activity is noted at most this often: one write a minute, not one a page
# Files and probes need no session, like the API: no cookie is read, no row is loaded.
WITHOUT_SESSION = ("/static/", "/health", "/ready", "/metrics")
# Flask-Login's own notes; the row says who it is.
_LOGIN_KEYS = frozenset({"_user_id", "_fresh", "_id", "_remember", "_remember_seconds"})


class BrowserSession(SecureCookieSession):
    """What one browser is known by during a request."""

    def __init__(self, data: dict[str, Any] | None = None, *, ephemeral: bool = False) -> None:
        super().__init__(data)
        self.ephemeral = ephemeral  # nothing of it is kept
        self.record: SessionRecord | None = None
        self.person: Person | None = None
        self.new_id: str | None = None  # to be sent to the browser
        self.drop_cookie = False  # the browser's id is over
        self.failure: Exception | None = None  # the database did not answer

    def bind(self, record: SessionRecord, person: Person) -> None:
        """Make this the session of `person`."""
        self.record, self.person = record, person
        self["_user_id"] = person.get_id()
        self["_fresh"] = True
        self.modified = False

    def remembered(self) -> dict[str, Any]:
        """Return what is kept for the next request."""
        return {key: value for key, value in self.items() if key not in _LOGIN_KEYS}


class ServerSessions(SessionInterface):
    """Load and save the sessions of one application."""

    def __init__(self, app: Flask) -> None:
        settings = services(app).settings
        self.secure = settings.secure_cookies
        prefix = "__Host-" if self.secure else ""
        self.session_cookie = f"{prefix}session"
        self.visitor_cookie = f"{prefix}visitor"
        self._signer = URLSafeTimedSerializer(settings.secret_key, salt="visitor-cookie")

    def open_session(self, app: Flask, request: Request) -> BrowserSession:
        """Return the session of a request: a person's, a visitor's, or one that is not kept."""
        if request.path.startswith(WITHOUT_SESSION) or services(app).settings.is_api_path(request.path):
            return BrowserSession(ephemeral=True)
        session_id = request.cookies.get(self.session_cookie)
        if session_id:
            try:
                loaded = services(app).sessions.load(token_hash(session_id))
            except Exception as problem:
                # Whatever it is, the request goes on as nobody's and is refused before any view.
                failed = BrowserSession(ephemeral=True)
                failed.failure = problem
                return failed
            if loaded is not None:
                found = BrowserSession(copy.deepcopy(loaded[0].data))  # compared with the record at the end
                found.bind(*loaded)
                return found
        visitor = self._visitor(request)
        # A part that renewed itself while the id changed must not take the new one away.
        visitor.drop_cookie = bool(session_id) and not is_background()
        return visitor

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        """Write what changed, and only that."""
        if session.ephemeral:
            return
        response.vary.add("Cookie")
        if session.record is not None:
            self._save_row(app, session)
            if session.new_id is not None:
                self._set(response, self.session_cookie, session.new_id)
                self._delete(response, self.visitor_cookie)
            return
        if session.drop_cookie:
            self._delete(response, self.session_cookie)
        if session.modified:
            kept = session.remembered()
            if kept:
                self._set(response, self.visitor_cookie, self._signer.dumps(kept))
            else:
                self._delete(response, self.visitor_cookie)

    def _save_row(self, app: Flask, session: BrowserSession) -> None:
        record = session.record
        assert record is not None
        now = clock.utc_now()
        data = session.remembered()
        changed = data if data != record.data else None
        active = not is_background() and now - record.last_seen_at >= TOUCH_EVERY
        if changed is None and not active:
            return
        try:
            services(app).sessions.save(
                record.session_hash, last_seen_at=now if active else None, data=changed
            )
        except SQLAlchemyError:
            # The page itself is done; without the note the session only ends earlier.
            logger.warning("the session could not be saved", exc_info=True)

    def _visitor(self, request: Request) -> BrowserSession:
        text = request.cookies.get(self.visitor_cookie)
        if not text:
            return BrowserSession()
        try:
            data = self._signer.loads(text, max_age=int(ABSOLUTE_LIMIT.total_seconds()))
        except BadSignature:
            return BrowserSession()
        return BrowserSession({k: v for k, v in data.items() if k not in _LOGIN_KEYS})

    def _set(self, response: Response, name: str, value: str) -> None:
        response.set_cookie(name, value, path="/", secure=self.secure, httponly=True, samesite="Lax")

    def _delete(self, response: Response, name: str) -> None:
        response.delete_cookie(name, path="/", secure=self.secure, httponly=True, samesite="Lax")


def register(app: Flask) -> None:
    """Put these sessions in place of Flask's, with Flask-Login on top of them."""
    app.session_interface = ServerSessions(app)
    manager = LoginManager(app)
    manager.session_protection = (
        None  # an id of 256 bits that the server can revoke needs no guessing at browsers
    )
    manager.user_loader(_person_of_session)

    @app.before_request
    def refuse_without_database() -> None:
        failure = getattr(session, "failure", None)
        if failure is not None:
            raise UnavailableError from failure


def _person_of_session(user_id: str) -> Person | None:
    person: Person | None = getattr(session, "person", None)
    return person if person is not None and person.get_id() == user_id else None


def sign_in(person: Person, *, how: str, link_hash: str | None = None, rehashed: str | None = None) -> None:
    """Sign `person` in on this browser, with a new id; raise `AccountError` when link or account are over."""
    fresh = {"csrf_token": secrets.token_hex(32)}
    _start(person, how=how, data=fresh, link_hash=link_hash, rehashed=rehashed)
    g.pop("csrf_token", None)  # Flask-WTF's copy of the old one


def confirm() -> None:
    """Begin this session anew, since its person gave the password; raise `AccountError` when it is closed.

    The old id is dead. The form tokens stay: the page that is open, and others beside it, hold them.
    """
    browser: BrowserSession = session._get_current_object()  # type: ignore[attr-defined]
    assert browser.person is not None
    _start(browser.person, how=CONFIRMED, data=browser.remembered())


def _start(person: Person, *, how: str, data: dict[str, Any], **more: str | None) -> None:
    browser: BrowserSession = session._get_current_object()  # type: ignore[attr-defined]
    session_id = secrets.token_urlsafe(ID_BYTES)
    record = services().sessions.start(
        NewSession(
            session_hash=token_hash(session_id),
            person=person,
            how=how,
            address=request.remote_addr,
            user_agent=request.user_agent.string,
            data=data,
            replaces=browser.record.session_hash if browser.record else None,
            **more,
        )
    )
    browser.clear()
    browser.update(record.data)
    browser.bind(record, person)
    browser.new_id, browser.drop_cookie = session_id, False
    login_user(person)


def sign_out() -> None:
    """End this browser's session."""
    browser: BrowserSession = session._get_current_object()  # type: ignore[attr-defined]
    if browser.record is not None and browser.person is not None:
        actor = Actor(name=browser.person.email, role=Role(browser.person.role), channel=Channel.DASHBOARD)
        services().sessions.sign_out(browser.record.session_hash, actor=actor)
    forget_browser()


def forget_browser() -> None:
    """Treat this browser as a visitor from now on; its row has been ended already."""
    browser: BrowserSession = session._get_current_object()  # type: ignore[attr-defined]
    logout_user()
    browser.clear()
    browser.record = browser.person = None
    browser.drop_cookie = True
    g.pop("csrf_token", None)


def current_record() -> SessionRecord | None:
    """Return the row of this browser's session."""
    return getattr(session, "record", None)
