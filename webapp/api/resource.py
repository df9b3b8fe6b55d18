"""What the blueprints of the API have in common."""

from __future__ import annotations

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from flask_openapi3.types import SecuritySchemesDict

from webapp.api.shapes import Problem

SECURITY_SCHEMES: SecuritySchemesDict = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, re_<id>_<secret>."}
}
ALWAYS_POSSIBLE = (400, 401, 403, 404, 409, 412, 413, 415, 422, 429, 503)


def resource(name: str, import_name: str) -> APIBlueprint:
    """Return the blueprint of one resource; its views are documented and need a key."""
    return APIBlueprint(
        f"api_{name}",
        import_name,
        abp_tags=[Tag(name=name)],
        abp_security=[{"key": []}],
        abp_responses={str(status): Problem for status in ALWAYS_POSSIBLE},
    )
