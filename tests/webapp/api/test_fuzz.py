"""Requests that schemathesis makes from the description of the API, for every role and without a key.

A short count here; `TORTURE=1` sends ten thousand and more to each database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote

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

from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.payload import is_storable
from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from tests.crash.scale import LONG, tell, times
from tests.factories import RunFactory
from tests.provision.app_fixtures import CHEAP
from tests.webapp.api.caller import caller
from webapp import Settings, create_app
from webapp.permissions import public

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROLES = [*Role, None]
SETTINGS = Settings(api_rate_limit=None, demo_mode=True, password_cost=CHEAP)
REFUSALS = (400, 401, 404, 405)
DRAWN = hypothesis.settings(
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@dataclass(frozen=True)
class Target:
    """An application with runs in every state, on one kind of database."""

    app: Flask
    runs: RunFactory
    kind: str

    def headers(self, role: Role | None) -> dict[str, str]:
        """Return what somebody of this role sends beside the request."""
        plain = {"Accept-Encoding": "identity"}  # schemathesis does not unpack answers
        if role is None:
            return plain
        return plain | {"Authorization": f"Bearer {caller(self.app, role).key}"}

    def make_fitting(self, case: Any) -> None:
        """Put into a request what no generator guesses: the next place, the key of a step, the version."""
        run_id, body = unquote((case.path_parameters or {}).get("run_id") or ""), case.body
        run = self.runs.store.load_summary(run_id) if is_storable(run_id) else None
        if run is None or not isinstance(body, dict):
            return
        for change in (body, body.get("change")):
            if isinstance(change, dict) and "version" in change:
                change["version"] = run.version
        given = body.get("input_json")
        if "step_name" in body and isinstance(given, dict):
            body |= {"step_index": run.resume_from_index, "sequence": run.next_sequence}
            key = (run.run_id, str(body["step_name"]), run.resume_from_index, hash_input(given))
            body["idempotency_key"] = generate_idempotency_key(*key)

    def some_ids(self) -> list[str]:
        made = self.runs.every_state() | {"prod": self.runs.blocked("partial", environment="prod")}
        return [run.run_id for run in made.values()]


@dataclass
class Served:
    """What a schema talks to: the application of the moment."""

    app: Flask

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Pass a request on."""
        return self.app(environ, start_response)


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Target]:
    wide = replace(SETTINGS, database_url=settings.database_url)
    if request.param == "postgres":
        wide = replace(wide, database_url=request.getfixturevalue("postgres_url"))
    with open_store(wide.database_url) as store:
        yield Target(create_app(wide, store=store), RunFactory(store), request.param)


@pytest.fixture
def sqlite_target(settings: Settings) -> Iterator[Target]:
    with open_store(settings.database_url) as store:
        yield Target(
            create_app(replace(SETTINGS, database_url=settings.database_url), store=store),
            RunFactory(store),
            "sqlite",
        )


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the application says of itself, read once: that takes longer than a call."""
    with open_store(f"sqlite:///{tmp_path_factory.mktemp('described') / 'runs.db'}") as store:
        schema = schemathesis.openapi.from_wsgi("/openapi.json", Served(create_app(SETTINGS, store=store)))
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    return schema


@pytest.mark.parametrize("target", ["sqlite", "postgres"] if LONG else ["sqlite"], indirect=True)
@pytest.mark.parametrize("role", ROLES, ids=str)
def test_no_request_leads_to_a_failure_of_ours(target: Target, described: Any, role: Role | None) -> None:
    described.app.app = target.app
    ids, counts = target.some_ids(), Counter[int]()
    headers = target.headers(role)
    examples = times(1, 50)
    for found in described.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(DRAWN, max_examples=examples)
        @hypothesis.given(case=operation.as_strategy(), place=hypothesis.strategies.integers(0, 2 * len(ids)))
        def send(case: Any, place: int) -> None:
            if "run_id" in (case.path_parameters or {}) and place < len(ids):
                case.path_parameters["run_id"] = ids[place]  # otherwise nearly all would be not found
            checked(case, headers, counts)

        send()
    told(f"fuzz as {role or 'nobody'} on {target.kind}", counts)
    assert sum(counts.values()) >= examples


@pytest.mark.parametrize("role", ROLES, ids=str)
def test_no_story_leads_to_a_failure_of_ours(target: Target, described: Any, role: Role | None) -> None:
    """One long story: what is called follows from the answers before, along the links of the description.

    Nobody starts anything without a key: there, each call of an operator is sent again without it.
    """
    described.app.app = target.app
    links = Links(described.raw_schema)
    counts, refused = Counter[int](), Counter[int]()
    headers, nobody = target.headers(role or Role.OPERATOR), target.headers(None)
    operations = [found.ok() for found in described.get_all_operations()]
    cases = hypothesis.strategies.one_of([operation.as_strategy() for operation in operations])

    @hypothesis.settings(DRAWN, max_examples=times(20, 1_000))
    @hypothesis.given(case=cases, number=hypothesis.strategies.integers(0, 99))
    def call(case: Any, number: int) -> None:
        links.follow(case, number)
        if number % 4:
            target.make_fitting(case)
        links.learn(case, checked(case, headers, counts))
        if role is None:
            checked(case, nobody, refused)

    links.learn_runs(target.some_ids())
    call()
    told(f"story as {role or 'nobody'} on {target.kind}", refused if role is None else counts)
    assert links.followed > times(2, 400), "the calls do not follow from each other"


def test_a_route_that_asks_for_no_key_is_found(
    sqlite_target: Target, described: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protection taken out."""
    described.app.app = sqlite_target.app
    monkeypatch.setitem(sqlite_target.app.view_functions, "api_runs.list_runs", public(_list_to_anybody))
    (operation,) = described.include(path="/runs", method="GET").get_all_operations()
    with pytest.raises(AssertionError, match="asks for no key"):
        checked(operation.ok().Case(), sqlite_target.headers(None), Counter())


def _list_to_anybody(**_: Any) -> dict[str, Any]:
    return {"runs": [], "next_cursor": None}


class Links:
    """What earlier answers say that later calls may be about."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._paths = document["paths"]
        self._known: dict[tuple[str, str], list[str]] = {}
        self.followed = 0

    def learn_runs(self, ids: list[str]) -> None:
        """Know of these runs before anything is answered."""
        for link in self._links("/start_run", "post", "200"):
            self._known[link["operationId"], "run_id"] = list(ids)

    def learn(self, case: Any, answer: Any) -> None:
        """Keep what an answer says."""
        for link in self._links(case.path, case.method.lower(), str(answer.status_code)):
            for name, expression in link["parameters"].items():
                value = answer.json()
                for part in expression.removeprefix("$response.body#/").split("/"):
                    members = value if isinstance(value, dict) else dict(enumerate(value or []))
                    value = members.get(int(part) if part.isdigit() else part)
                if value is not None:
                    self._known.setdefault((link["operationId"], name), []).append(value)

    def follow(self, case: Any, number: int) -> None:
        """Let most calls be about one of the last things that were heard of."""
        for name in case.path_parameters or {}:
            known = self._known.get((case.operation.definition.raw["operationId"], name), [])[-12:]
            if known and number < 90:
                case.path_parameters[name] = quote(known[number % len(known)], safe="")
                self.followed += 1

    def _links(self, path: str, method: str, status: str) -> list[dict[str, Any]]:
        return list((self._paths[path][method]["responses"].get(status) or {}).get("links", {}).values())


def checked(case: Any, headers: dict[str, str], counts: Counter[int]) -> Any:
    """Send a request, compare the answer with the description; return it."""
    case.headers.pop("Authorization", None)
    answer = case.call(headers=headers)
    counts[answer.status_code] += 1
    case.validate_response(answer, checks=CHECKS)
    if "Authorization" not in headers and case.path != "/demo/runs":  # that one is open to everybody
        assert answer.status_code in REFUSALS, f"{case.method} {case.path} asks for no key"
    return answer


def told(name: str, counts: Counter[int]) -> None:
    """Tell what was answered; none of it may be a failure of ours."""
    tell(f"{name}: {sum(counts.values())} requests, {dict(sorted(counts.items()))}")
    assert not [status for status in counts if status >= 500]
