"""Where a person may be sent afterwards: to a page of ours, and nowhere else."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

HOME = "/"
# Pages that make no sense as the next one.
_NEVER = frozenset({"sign_in", "assets", "health"})


def own_path(address: str | None) -> str:
    """Return `address` if it is path and query of one of our own pages, else `/`.

    The routing table decides, not the look of the address: `//evil`, `\\t//evil`, `https:evil` and
    `javascript:` all match no page of ours.
    """
    if not address or not address.isprintable() or "\\" in address:
        return HOME
    try:
        parts = urlsplit(address)
    except ValueError:
        return HOME
    if parts.scheme or parts.netloc or not parts.path.startswith("/") or parts.path.startswith("//"):
        return HOME
    if not _is_page(parts.path):
        return HOME
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _is_page(path: str) -> bool:
    adapter = current_app.url_map.bind(request.host)
    try:
        endpoint, _ = adapter.match(path, method="GET")
    except (RequestRedirect, HTTPException):
        return False
    return endpoint.partition(".")[0] not in _NEVER
