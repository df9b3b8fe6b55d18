"""Errors to HTTP: one table, one page, one fragment; never a traceback."""

from __future__ import annotations

import math
import re
import secrets
from dataclasses import dataclass

from flask import Flask, Response, current_app, g, jsonify, render_template, request
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from resume_engine.core import errors as engine
from resume_engine.core.gate_progress import count_people
from resume_engine.core.masking import mask_text, masked_logger
from resume_engine.storage.driver import connection_was_lost
from webapp.htmx import is_htmx
from webapp.keys.records import KeyRefusedError

logger = masked_logger(__name__)

AWAY_SECONDS = 1.0
"""So soon it is worth while to ask again for a database that was away: restarts are short."""


class AccessDeniedError(Exception):
    """The signed-in person's role does not allow this."""


class KeyMissingError(Exception):
    """A call of the API without a key."""


class KeyMisplacedError(Exception):
    """A key in the address, where logs and proxies would keep it."""


class PreconditionFailedError(Exception):
    """The run is no longer at the version that a call named; the message says at which."""


class TooManyRequestsError(Exception):
    """A caller came too often; `retry_after` says in how many seconds it may come again."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class SignedOutError(Exception):
    """Nobody is signed in, or no longer."""


class UnavailableError(Exception):
    """The database does not answer: nothing was changed."""


# The nearest class in an error's ancestry decides; tests/webapp/test_errors.py wants a row for every class.
STATUS_OF_ERROR: dict[type[BaseException], int] = {
    engine.ResumeEngineError: 500,
    engine.RunNotFoundError: 404,
    engine.RunExistsError: 409,
    engine.RunFinishedError: 409,
    engine.RunBusyError: 409,
    engine.StaleRunError: 409,
    engine.LeaseLostError: 409,
    engine.ResumeBlockedError: 409,
    engine.InvalidValueError: 400,
    engine.UnknownEnvironmentError: 400,
    engine.InputNotSerializableError: 400,
    engine.StepTimeoutError: 500,
    engine.StepOutputError: 500,
    engine.OutputNotDictError: 500,
    engine.OutputNotSerializableError: 500,
    engine.OutputTooLargeError: 500,
    engine.WorkflowMismatchError: 409,
    engine.InputMismatchError: 409,
    engine.ReplayDivergenceError: 409,
    engine.IdempotencyCollisionError: 409,
    engine.DecisionError: 409,
    engine.NothingToDecideError: 400,
    engine.AlreadyDecidedError: 409,
    engine.AnotherPersonNeededError: 409,
    engine.FailureMovedOnError: 409,
    engine.DecisionNotAllowedError: 403,
    engine.PolicyRefusalError: 403,
    engine.DecisionInputError: 422,
    engine.PolicyFileError: 500,
    engine.PayloadError: 500,
    engine.PayloadLockedError: 409,
    engine.PayloadUnreadableError: 500,
    engine.RemoteError: 500,
    engine.RemoteAccessError: 500,
    engine.RemoteTooLargeError: 500,
    engine.RemoteUnreachableError: 500,
    engine.RemoteUnsupportedError: 500,
    engine.SyncConflictError: 500,
    engine.SchemaError: 503,
    engine.SchemaOutdatedError: 503,
    engine.SchemaTooNewError: 503,
    CSRFError: 403,
    AccessDeniedError: 403,
    SignedOutError: 401,
    KeyMissingError: 401,
    KeyMisplacedError: 400,
    KeyRefusedError: 401,
    TooManyRequestsError: 429,
    PreconditionFailedError: 412,
    UnavailableError: 503,
    OperationalError: 503,
    InterfaceError: 503,
    PoolTimeoutError: 503,
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Say what a person reads when something was refused or failed."""

    title: str
    message: str
    next_href: str = "/"
    next_label: str = "Go to the overview"


ANSWERS: dict[int, Answer] = {
    400: Answer(
        title="This request cannot be read",
        message="Something in it is not as expected. Nothing was changed.",
    ),
    401: Answer(
        title="You are signed out",
        message="Nothing was changed. Sign in to go on.",
        next_href="/login",
        next_label="Go to the sign-in page",
    ),
    403: Answer(
        title="You may not do this",
        message="Your role does not allow it. Nothing was changed; an administrator can change your role.",
    ),
    404: Answer(title="Nothing is here", message="There is no such page or run. Check the address."),
    405: Answer(
        title="This cannot be done here", message="The page exists, but not for this kind of request."
    ),
    409: Answer(
        title="Somebody was faster", message="This is no longer as it was shown. Nothing was changed."
    ),
    410: Answer(title="This is over", message="It worked once and does not work again."),
    412: Answer(
        title="This has changed", message="It is no longer as it was shown. Nothing was changed; look again."
    ),
    413: Answer(
        title="This is too much", message="More was sent than is accepted. Nothing was changed; send less."
    ),
    422: Answer(
        title="This is not complete",
        message="Something that is needed is missing or wrong. Nothing was changed.",
    ),
    429: Answer(title="Too many attempts", message="Wait a moment, then try again."),
    500: Answer(
        title="This went wrong here",
        message="It is our fault, not yours. Look at what is recorded before you try again.",
    ),
    503: Answer(
        title="The database does not answer",
        message="Look at what is recorded before you try again.",
    ),
}


TITLE_OF_ERROR: dict[type[BaseException], str] = {
    engine.PayloadLockedError: "The payloads of this database are encrypted",
}
"""Where the status alone would say the wrong thing."""


SAID_TO_CALLERS: dict[type[BaseException], str] = {
    KeyMissingError: "Send an API key: Authorization: Bearer re_...",
    KeyMisplacedError: (
        "A key does not belong in the address, where logs keep it. Send Authorization: Bearer re_... "
        "and make another key: this one may be known by now."
    ),
    AccessDeniedError: "The role of this key does not allow it. Nothing was changed.",
}
"""What only callers of the API can meet, or have to be told in other words than people."""


def status_of(error: BaseException) -> int:
    """Return the status for an error: that of the nearest class in its ancestry, else 500."""
    if isinstance(error, DBAPIError) and connection_was_lost(error):
        return STATUS_OF_ERROR[UnavailableError]  # by whatever class the driver says so
    for cls in type(error).__mro__:
        if cls in STATUS_OF_ERROR:
            return STATUS_OF_ERROR[cls]
    return 500


def register(app: Flask) -> None:
    """Give every request an id and every error an answer."""

    @app.before_request
    def number_request() -> None:
        request_id()

    @app.after_request
    def show_number(response: Response) -> Response:
        response.headers["X-Request-Id"] = request_id()
        return response

    app.register_error_handler(Exception, respond)


def request_id() -> str:
    """Return the id of this request; it stands in the log beside what went wrong."""
    if "request_id" not in g:
        g.request_id = secrets.token_hex(6)
    found: str = g.request_id
    return found


def respond(error: Exception) -> Response:
    """Return the answer to any error: the table's status, and words without technical detail."""
    if isinstance(error, HTTPException) and error.response is not None:
        return error.get_response()  # type: ignore[return-value]  # already complete, such as a redirect
    known = type(error) in STATUS_OF_ERROR or not isinstance(error, HTTPException)
    status = status_of(error) if known else (error.code or 500)  # type: ignore[attr-defined]
    if status >= 500:
        logger.error("%s: %s %r failed", request_id(), request.method, request.path, exc_info=error)
    if is_api_request():
        g.refusal_code = code_of(error)  # webapp.metrics counts it
        response = problem(status, detail_of(error, status), g.refusal_code, **_facts_of(error))
    else:
        response = render(status, _message(error, status), title=TITLE_OF_ERROR.get(type(error)))
    if status == 401 and is_api_request():
        response.headers["WWW-Authenticate"] = "Bearer"
    wait = _wait_after(error)
    if wait is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(wait)))
    if isinstance(error, HTTPException):
        for name, value in error.get_headers(request.environ):
            if name in ("Allow", "Retry-After"):
                response.headers[name] = value
    return response


def is_away(error: Exception) -> bool:
    """Return whether an error says that the database does not answer."""
    return isinstance(error, SQLAlchemyError | UnavailableError) and status_of(error) == 503


def _wait_after(error: Exception) -> float | None:
    """Return in how many seconds to come again, where that helps."""
    if isinstance(error, TooManyRequestsError):
        return error.retry_after
    return AWAY_SECONDS if is_away(error) else None


def is_api_request() -> bool:
    """Return whether this request is answered in JSON: its path is one of the API's."""
    return bool(current_app.extensions["resume_engine"].settings.is_api_path(request.path))


def problem(status: int, detail: object, code: str, **more: object) -> Response:
    """Return an error of the API; every one has this shape."""
    response = jsonify({"detail": detail, "code": code, "request_id": request_id(), **more})
    response.status_code = status
    return response


def _facts_of(error: Exception) -> dict[str, object]:
    """Return what an error of the engine is about, for our client, which raises the same error again."""
    if "OrchestrateOS-Protocol" not in request.headers:
        return {}  # everybody else is given the one shape of errors
    if not isinstance(error, engine.ResumeEngineError) or status_of(error) >= 500:
        return {}
    facts = {name: value for name, value in vars(error).items() if isinstance(value, str | int)}
    until = getattr(error, "until", None)
    return {"about": facts | ({"until": until.isoformat()} if until is not None else {})}


def detail_of(error: Exception, status: int) -> object:
    """Return what a caller of the API is told: a sentence, for a closed gate also what it waits for."""
    said = _message(error, status) or SAID_TO_CALLERS.get(type(error))
    answer = ANSWERS.get(status) or ANSWERS[500 if status >= 500 else 400]
    message = said or answer.message
    if isinstance(error, engine.ResumeBlockedError):
        here = current_app.extensions["resume_engine"]
        try:
            count_people(error, here.store, here.engine.policy)
        except SQLAlchemyError:  # the refusal is right without it
            logger.warning("%s: who decided could not be counted", request_id(), exc_info=True)
        return {"message": message, "blockers": [blocker.to_dict() for blocker in error.blockers]}
    return message


def code_of(error: Exception) -> str:
    """Return a word for the kind of an error that programs can rely on, for example `run_not_found`."""
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _message(error: Exception, status: int) -> str | None:
    """Return the error's own words where they are meant for people."""
    if status >= 500:
        return None
    if isinstance(error, engine.ResumeEngineError):
        return mask_text(str(error))
    if isinstance(error, AccessDeniedError | KeyRefusedError | PreconditionFailedError) and str(error):
        return str(error)
    if isinstance(error, CSRFError):
        return error.description
    if isinstance(error, HTTPException) and error.description != type(error).description:
        return error.description  # ours, from abort(400, "...")
    return None


def render(status: int, message: str | None = None, *, title: str | None = None) -> Response:
    """Return the error page, or its fragment for htmx."""
    answer = ANSWERS.get(status) or ANSWERS[500 if status >= 500 else 400]
    template = "_error.html" if is_htmx() else "error.html"
    try:
        body = render_template(
            template,
            status=status,
            title=title or answer.title,
            message=message or answer.message,
            next_href=answer.next_href,
            next_label=answer.next_label,
            request_id=request_id() if status >= 500 else None,
        )
    except Exception:
        # A wrong Host header or a database that is away can break the page itself: say it plainly.
        logger.exception("%s: the error page failed", request_id())
        body = f"{status} {answer.title}. {answer.message} ({request_id()})"
        return Response(body, status, content_type="text/plain; charset=utf-8")
    return Response(body, status, content_type="text/html; charset=utf-8")
