"""The description of the API: as OpenAPI, and as a page to try it; open to everybody, like /health."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask_openapi3_swagger
from flask import Blueprint, Response, abort, render_template, send_file
from flask_openapi3.openapi import OpenAPI

from webapp import assets
from webapp.extensions import services
from webapp.permissions import public

_SWAGGER = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"
FILES = {
    "swagger-ui.css": _SWAGGER / "css" / "swagger-ui.css",
    "swagger-ui-bundle.js": _SWAGGER / "js" / "swagger-ui-bundle.js",
    "docs.css": assets.folder("static") / "docs.css",
    "docs.js": assets.folder("static") / "docs.js",
}
"""What the page loads, all of it from here: the policy of the pages lets nothing else in."""
MAX_AGE_SECONDS = 3_600


def blueprint(app: OpenAPI) -> Blueprint:
    """Return the routes, at the root whatever prefix the API has."""
    documents = Blueprint("documents", __name__)

    @documents.get("/openapi.json")
    @public
    def openapi() -> dict[str, Any]:
        """Return the description of the API."""
        return app.api_doc

    documents.get("/docs")(page)
    documents.get("/docs/<name>")(file)
    if services(app).settings.api_only:
        documents.get("/")(welcome)
    return documents


@public
def page() -> str:
    """Show the description, with a form for each call."""
    return render_template("docs.html")


@public
def file(name: str) -> Response:
    """Send what the page loads."""
    if name not in FILES:
        abort(404)
    return send_file(FILES[name], max_age=MAX_AGE_SECONDS)


@public
def welcome() -> dict[str, str]:
    """Say what answers here, as release 0.2.0 did."""
    return {"product": "OrchestrateOS", "docs": "/docs", "openapi": "/openapi.json", "health": "/health"}
