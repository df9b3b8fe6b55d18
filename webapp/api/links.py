"""Which calls follow from an answer, in the description: whoever has a run's id knows what to do with it."""

from __future__ import annotations

from collections.abc import Iterator

from flask_openapi3.models.link import Link
from flask_openapi3.models.operation import Operation
from flask_openapi3.openapi import OpenAPI

_RUN = "/runs/{run_id}"
_METHODS = ("get", "post", "patch")
# Answers that name a run, and where in them.
_NAMING = {
    ("post", "/start_run"): "$response.body#/run_id",
    ("get", "/runs"): "$response.body#/runs/0/run_id",
    ("post", "/resume"): "$response.body#/run_id",
    ("get", f"{_RUN}/status"): "$response.body#/run_id",
    ("post", f"{_RUN}/steps"): "$response.body#/run_id",
    ("post", f"{_RUN}/lease"): "$response.body#/run_id",
    ("post", f"{_RUN}/approve"): "$response.body#/run_id",
}


def add(app: OpenAPI, base: str) -> None:
    """Link each answer that names a run to every call on a run, and a record to the search for its key."""
    described = {
        (method, path.removeprefix(base)): operation
        for path, item in app.paths.items()
        for method in _METHODS
        if (operation := getattr(item, method, None)) is not None
    }
    for source, place in _NAMING.items():
        _link(described[source], dict(_calls_on_a_run(described, place)))
    find_step = described["get", "/idempotency/{key}"]
    found = Link(operationId=find_step.operationId, parameters={"key": _FIRST_KEY})
    _link(described["get", _RUN], {"find_step": found})


_FIRST_KEY = "$response.body#/steps/0/idempotency_key"


def _calls_on_a_run(described: dict[tuple[str, str], Operation], place: str) -> Iterator[tuple[str, Link]]:
    for (method, path), operation in described.items():
        if path.startswith(_RUN) and "{sequence}" not in path:
            name = f"{method}{path.removeprefix(_RUN).replace('/', '_')}"
            yield name, Link(operationId=operation.operationId, parameters={"run_id": place})


def _link(operation: Operation, links: dict[str, Link]) -> None:
    for status, response in (operation.responses or {}).items():
        if status.startswith("2"):
            response.links = {**links}
