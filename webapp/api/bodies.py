"""Bodies of the API: read strictly, once, before any view."""

from __future__ import annotations

from typing import Any

from flask import Flask, Request, abort, request

from webapp.extensions import current_settings
from webapp.json_input import JsonInputError, read_object


class StrictRequest(Request):
    """A request whose JSON was read by `read_body`; the lenient parser is never used."""

    strict_json: dict[str, Any] | None = None

    def get_json(self, *args: Any, **kwargs: Any) -> Any:
        """Return the body that was read before the view."""
        return self.strict_json


def register(app: Flask) -> None:
    """Read every body that is sent to the API."""
    app.request_class = StrictRequest
    app.before_request(read_body)


def read_body() -> None:
    """Read a JSON object, or answer 400, 413 or 415; a request without a body has an empty one."""
    if not current_settings().is_api_path(request.path) or request.method in ("GET", "HEAD", "OPTIONS"):
        return
    raw = request.get_data(cache=True)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        abort(415, "Send the body as it is, without Content-Encoding.")
    if not raw:
        _keep({})
        return
    if request.mimetype != "application/json":
        abort(415, "Send JSON, with Content-Type: application/json.")
    try:
        _keep(read_object(raw.decode("utf-8")))
    except UnicodeDecodeError:
        abort(400, "The body is not UTF-8.")
    except JsonInputError as mistake:
        abort(400, str(mistake))


def _keep(body: dict[str, Any]) -> None:
    request.strict_json = body  # type: ignore[attr-defined]
