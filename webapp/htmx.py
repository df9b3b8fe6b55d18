"""What htmx tells the server, and what it has to be told."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, Response, request

# Sent by parts of a page that renew themselves: nobody pressed anything, so nobody was active.
BACKGROUND_HEADERS = ("X-Live", "X-Background")


def is_htmx() -> bool:
    """Return whether htmx asks for a part of a page; False when it restores a whole page from history."""
    return request.headers.get("HX-Request") == "true" and not is_history_restore()


def is_history_restore() -> bool:
    """Return whether htmx needs the whole page again, for the Back button."""
    return request.headers.get("HX-History-Restore-Request") == "true"


def is_background() -> bool:
    """Return whether a part of a page renews itself; such a request does not count as activity."""
    return any(name in request.headers for name in BACKGROUND_HEADERS)


def page_address() -> str:
    """Return path and query of the page that htmx works on, or `/` when it does not say."""
    parts = urlsplit(request.headers.get("HX-Current-URL", ""))
    return (f"{parts.path}?{parts.query}" if parts.query else parts.path) or "/"


def register(app: Flask) -> None:
    """Keep caches from mixing up pages and parts that share an address."""

    @app.after_request
    def vary(response: Response) -> Response:
        if response.mimetype == "text/html":
            response.vary.update(("HX-Request", "HX-History-Restore-Request"))
        return response
