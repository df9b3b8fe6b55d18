"""Style sheet, scripts and icon, served from memory under addresses that change with their content."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from flask import Blueprint, Flask, Response, abort, current_app, request, url_for

from webapp.permissions import public

PACKAGE = Path(__file__).resolve().parent
FOREVER = "public, max-age=31536000, immutable"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

blueprint = Blueprint("assets", __name__)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """Hold one file as it is sent; `fingerprint` is part of its address."""

    content: bytes
    zipped: bytes
    content_type: str
    fingerprint: str


class MissingAssetError(RuntimeError):
    """A file that every page needs is not there: the dashboard refuses to start."""


def folder(name: str) -> Path:
    """Return the folder `name`: beside this package's files (wheel), else one level up (checkout)."""
    for place in (PACKAGE / name, PACKAGE.parent / name):
        if place.is_dir():
            return place
    raise MissingAssetError(f"The folder {name}/ is missing: install the package again (`pip install -e .`).")


def _sources() -> dict[str, Path]:
    static = folder("static")
    return {
        "app.css": static / "app.css",
        "app.js": static / "app.js",
        "favicon.svg": static / "favicon.svg",
        "htmx.min.js": PACKAGE / "_vendor" / "htmx-2.min.js",
    }


def load(name: str, path: Path) -> Asset:
    """Read one file; raise `MissingAssetError` saying what to do when it is not there."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingAssetError(
            f"{name} is missing ({path.name}): run `pip install -e .`, which brings it, and start again."
        ) from None
    return Asset(
        content=content,
        zipped=gzip.compress(content, 9, mtime=0),
        content_type=CONTENT_TYPES[path.suffix],
        fingerprint=hashlib.sha256(content).hexdigest()[:12],
    )


@blueprint.get("/static/<fingerprint>/<name>")
@public
def serve(fingerprint: str, name: str) -> Response:
    """Send one file; an address with an old fingerprint gets the present file, but is not kept."""
    asset = _loaded().get(name)
    if asset is None:
        abort(404)
    zipped = "gzip" in request.headers.get("Accept-Encoding", "")
    response = Response(asset.zipped if zipped else asset.content, content_type=asset.content_type)
    if zipped:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = FOREVER if fingerprint == asset.fingerprint else "no-cache"
    return response


def asset(name: str) -> str:
    """Return the address of a static file, for templates."""
    return url_for("assets.serve", fingerprint=_loaded()[name].fingerprint, name=name)


def _loaded() -> dict[str, Asset]:
    loaded: dict[str, Asset] = current_app.extensions["assets"]
    return loaded


def register(app: Flask) -> None:
    """Read every static file now, so that a broken install shows at the start and not on a page."""
    app.extensions["assets"] = {name: load(name, path) for name, path in _sources().items()}
    app.jinja_env.globals["asset"] = asset
    app.register_blueprint(blueprint)
