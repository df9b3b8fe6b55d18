"""The JSON API: one blueprint per resource, under the prefix that the settings name.

Callers send a key, never a cookie; pages take a session, never a key.
"""

from __future__ import annotations

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.openapi import OpenAPI
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from webapp.api import (
    audit,
    bodies,
    decisions,
    demo,
    documents,
    executor_reads,
    leases,
    links,
    queries,
    repeats,
    runner,
    runs,
    steps,
)
from webapp.api.shapes import NOT_BLANK
from webapp.errors import problem
from webapp.extensions import services

RESOURCES = (runs, runner, steps, leases, executor_reads, decisions, audit)


def register(app: OpenAPI) -> None:
    """Add every resource of the API to `app`."""
    bodies.register(app)
    settings = services(app).settings
    base = settings.api_base
    for resource in (*RESOURCES, *([demo] if settings.demo_mode else [])):
        blueprint = resource.blueprint()
        blueprint.url_prefix = base
        _keep_operations(app, blueprint)
        app.register_api(blueprint)
    links.add(app, base)
    app.register_blueprint(documents.blueprint(app))
    queries.register(app)
    repeats.register(app)


def _keep_operations(app: OpenAPI, blueprint: APIBlueprint) -> None:
    """Keep what is described of a path already: two resources may serve it by different methods."""
    for path, item in blueprint.paths.items():
        for method in ("get", "post", "patch"):
            described = getattr(app.paths.get(path), method, None)
            if described is not None:
                setattr(item, method, described)


def _words(fault: ErrorDetails) -> str:
    """Return what is wrong with a field in words: to a person a pattern of blanks says nothing."""
    if fault["type"] == "string_pattern_mismatch" and fault["ctx"]["pattern"] == NOT_BLANK:
        return "Say who it is: blanks alone name nobody"
    return fault["msg"]


def refuse_shape(error: ValidationError) -> Response:
    """Answer 422 to what has the wrong shape, naming the first field and listing all."""
    faults = [
        {"field": ".".join(str(part) for part in fault["loc"]) or "body", "message": _words(fault)}
        for fault in error.errors(include_url=False, include_input=False)
    ]
    sentence = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults[:3])
    return problem(422, f"{sentence}. Nothing was changed.", "invalid_shape", errors=faults)
