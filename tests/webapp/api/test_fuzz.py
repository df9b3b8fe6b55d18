"""Requests that schemathesis makes from the description of the API, for every role and without a key.

A short count here; `TORTURE=1` sends ten thousand and more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from tests.crash.scale import tell, times
from tests.factories import RunFactory
from tests.webapp.api.caller import caller
from webapp import Settings, create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROLES = [*Role, None]


@dataclass(frozen=True)
class Target:
    """An application with runs in every state, on one kind of database."""

    app: Flask
    runs: RunFactory
    kind: str

    def some_ids(self) -> list[str]:
        made = self.runs.every_state() | {"prod": self.runs.blocked("partial", environment="prod")}
        return [run.run_id for run in made.values()]


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Target]:
    wide = replace(settings, api_rate_limit=None, demo_mode=True)
    if request.param == "postgres":
        wide = replace(wide, database_url=request.getfixturevalue("postgres_url"))
    with open_store(wide.database_url) as store:
        yield Target(create_app(wide, store=store), RunFactory(store), request.param)


@pytest.mark.parametrize("role", ROLES, ids=str)
def test_no_request_leads_to_a_failure_of_ours(target: Target, role: Role | None) -> None:
    ids, counts = target.some_ids(), Counter[int]()
    headers = {"Accept-Encoding": "identity"}  # schemathesis does not unpack answers
    if role is not None:
        headers["Authorization"] = f"Bearer {caller(target.app, role).key}"
    schema = schemathesis.openapi.from_wsgi("/openapi.json", target.app)
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    examples = times(2, 80)
    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(), place=hypothesis.strategies.integers(0, 2 * len(ids)))
        def send(case: Any, place: int) -> None:
            if "run_id" in (case.path_parameters or {}) and place < len(ids):
                case.path_parameters["run_id"] = ids[place]  # otherwise nearly all would be not found
            case.headers.pop("Authorization", None)
            answer = case.call(headers=headers)
            counts[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)
            if role is None and case.path != "/demo/runs":  # that one is open to everybody
                assert answer.status_code in (400, 401, 404, 405), (answer.status_code, answer.text)

        send()
    tell(f"fuzz as {role or 'nobody'} on {target.kind}: {sum(counts.values())} requests, {dict(counts)}")
    assert sum(counts.values()) >= examples
    assert not [status for status in counts if status >= 500]
