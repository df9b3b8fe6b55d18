"""Idempotency-Key: a POST that is sent twice acts once, and is answered twice with the same bytes.

Answers to what changed something are kept; a refusal changed nothing and is judged anew.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from datetime import datetime

from flask import Flask, Response, abort, g, request
from sqlalchemy.exc import SQLAlchemyError

from webapp.api.answer_store import AnswerStore, Claim, KeyReusedError, StillRunningError, StoredAnswer
from webapp.errors import problem, request_id
from webapp.extensions import current_settings, current_store
from webapp.keys.caller import current_caller

logger = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEY_MAX_CHARACTERS = 255
KEPT_HEADERS = ("ETag", "Location")
"""What an answer says beside its body; everything else is said anew."""


def register(app: Flask) -> None:
    """Look for the header before every view, and keep the answer afterwards."""
    app.before_request(claim_or_repeat)
    app.after_request(keep_or_release)


def claim_or_repeat() -> Response | None:
    """Answer what is repeated; let the first one pass."""
    if request.method != "POST" or HEADER not in request.headers or request.routing_exception is not None:
        return None
    if not current_settings().is_api_path(request.path):
        return None
    key = request.headers[HEADER].strip()
    if not key.isascii() or not key.isprintable() or not 0 < len(key) <= KEY_MAX_CHARACTERS:
        abort(400, f"{HEADER}: send 1 to {KEY_MAX_CHARACTERS} printable ASCII characters.")
    try:
        found = AnswerStore(current_store()).claim(_caller_id(), key, _fingerprint())
    except KeyReusedError:
        sentence = f"This {HEADER} came with another request before. Nothing was changed; use a new one."
        return problem(422, sentence, "idempotency_key_reused")
    except StillRunningError:
        sentence = f"The first request with this {HEADER} is still being worked on. Ask again in a moment."
        answer = problem(409, sentence, "still_running")
        answer.headers["Retry-After"] = "1"
        return answer
    if isinstance(found, Claim):
        g.repeat_claim = found
        return None
    answer = Response(found.body, found.status, headers=found.headers, content_type=found.content_type)
    answer.headers[REPLAYED] = "true"
    return answer


def keep_or_release(response: Response) -> Response:
    """Keep the answer to what changed something; forget what did not."""
    claim: Claim | None = g.pop("repeat_claim", None)
    if claim is not None:
        try:
            _settle(AnswerStore(current_store()), claim, response)
        except SQLAlchemyError:  # whoever repeats it takes it over, as after a crash
            logger.warning("%s: an answer could not be kept", request_id(), exc_info=True)
    return response


def _settle(answers: AnswerStore, claim: Claim, response: Response) -> None:
    if response.status_code >= 500:
        answers.give_up(claim)
    elif response.status_code >= 300 or response.is_streamed:
        answers.release(claim)
    else:
        answers.keep(claim, _kept(response))


def _kept(response: Response) -> StoredAnswer:
    return StoredAnswer(
        status=response.status_code,
        content_type=response.content_type or "application/json",
        body=response.get_data(as_text=True),
        headers={name: response.headers[name] for name in KEPT_HEADERS if name in response.headers},
    )


def retaken() -> datetime | None:
    """Return when an earlier attempt at this request began that died on the way, perhaps after its change."""
    claim: Claim | None = g.get("repeat_claim")
    return claim.retaken if claim is not None else None


def run_id_of_request() -> str | None:
    """Return the id of a run that this request starts without naming one: the same if it is repeated."""
    claim: Claim | None = g.get("repeat_claim")
    if claim is None:
        return None
    digest = hashlib.sha256(f"{claim.caller}\n{claim.key}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _caller_id() -> str:
    caller = current_caller()
    return hashlib.sha256((caller.key_id or caller.actor.name).encode()).hexdigest()


def _fingerprint() -> str:
    target = f"{request.method} {request.full_path}\n".encode()
    return hashlib.sha256(target + request.get_data(cache=True)).hexdigest()
