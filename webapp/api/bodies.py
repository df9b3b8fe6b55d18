"""Bodies of the API: read strictly, once, before any view."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, abort, current_app, request

from resume_engine.core.payload import MAX_REQUEST_BYTES
from resume_engine.core.permissions import Permission
from webapp.extensions import current_settings
from webapp.json_input import JsonInputError, read_object
from webapp.permissions import permission_of
from webapp.whole_bodies import WholeRequest


class StrictRequest(WholeRequest):
    """A request whose JSON was read by `read_body`; the lenient parser is never used."""

    strict_json: dict[str, Any] | None = None

    def get_json(self, *args: Any, **kwargs: Any) -> Any:
        """Return the body that was read before the view."""
        return self.strict_json


MAX_PAYLOAD_BYTES = MAX_REQUEST_BYTES
"""What a runner sends may carry inputs and outputs; everything else is as short as a form."""


def register(app: Flask) -> None:
    """Read every body that is sent to the API."""
    app.request_class = StrictRequest
    app.before_request(read_body)
    app.after_request(tell_protocol)


def tell_protocol(response: Response) -> Response:
    """Say which calls this server knows beyond those of release 0.2.0."""
    if current_settings().is_api_path(request.path):
        response.headers["OrchestrateOS-Protocol"] = "1"
    return response


def read_body() -> None:
    """Read a JSON object, or answer 400, 413 or 415; a request without a body has an empty one."""
    if not current_settings().is_api_path(request.path) or request.method in ("GET", "HEAD", "OPTIONS"):
        return
    if request.routing_exception is not None:
        return  # the dispatcher says that there is no such place
    if permission_of(current_app.view_functions.get(request.endpoint or "")) is Permission.RUNS_WRITE:
        request.max_content_length = MAX_PAYLOAD_BYTES
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        abort(415, "Send the body as it is, without Content-Encoding.")
    raw = request.get_data(cache=True)
    if not raw:
        _keep({})
        return
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype != "application/json" or charset not in ("utf-8", "utf8"):
        abort(415, "Send JSON in UTF-8, with Content-Type: application/json.")
    try:
        _keep(read_object(raw.decode("utf-8")))
    except UnicodeDecodeError:
        abort(400, "The body is not UTF-8.")
    except JsonInputError as mistake:
        abort(400, str(mistake))


def _keep(body: dict[str, Any]) -> None:
    request.strict_json = body  # type: ignore[attr-defined]
