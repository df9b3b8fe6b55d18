"""Sharing the JSON API with scripts of the sites that CORS_ORIGINS names; pages are never shared."""

from __future__ import annotations

from flask import Flask, Response, request

from webapp.extensions import current_settings

METHODS = "GET, POST, PATCH, DELETE"
REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match"
RESPONSE_HEADERS = "ETag, Idempotency-Replayed, Link, Location, Retry-After, X-Request-Id"
KEPT_SECONDS = 600


def register(app: Flask) -> None:
    """Answer the questions of browsers before any key is asked for, and mark what they may read."""
    app.before_request(answer_preflight)
    app.after_request(share)


def is_shared_origin() -> bool:
    """Return whether the request comes from a page of a site that CORS_ORIGINS names."""
    return request.headers.get("Origin") in current_settings().cors_origins


def answer_preflight() -> Response | None:
    """Answer a browser that asks whether it may send a request; it asks without a key."""
    if not (request.method == "OPTIONS" and current_settings().is_api_path(request.path)):
        return None
    if "Origin" not in request.headers or "Access-Control-Request-Method" not in request.headers:
        return None
    response = Response(status=204)
    if is_shared_origin():
        response.headers["Access-Control-Allow-Methods"] = METHODS
        response.headers["Access-Control-Allow-Headers"] = REQUEST_HEADERS
        response.headers["Access-Control-Max-Age"] = str(KEPT_SECONDS)
    return response


def share(response: Response) -> Response:
    """Name the site that may read an answer of the API; cookies are not for it, so no credentials."""
    settings = current_settings()
    if not settings.cors_origins or not settings.is_api_path(request.path):
        return response
    response.vary.add("Origin")
    if is_shared_origin():
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = RESPONSE_HEADERS
    return response
