"""No id of a run is the address of a part of another run, whatever parts have addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from urllib.parse import quote

import pytest
from flask import Flask
from werkzeug.routing import AnyConverter, IntegerConverter, Rule

from resume_engine.core.errors import InvalidValueError
from resume_engine.core.outside_writes import PARTS_OF_RUNS, check_new_run
from resume_engine.core.permissions import Role
from resume_engine.core.run import Run
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.webapp.api.caller import caller as key_of

RUN = "/runs/<path:run_id>"


def values_of(rule: Rule, name: str) -> list[object]:
    converter = rule._converters[name]
    if isinstance(converter, AnyConverter):
        return sorted(converter.items)
    return [7] if isinstance(converter, IntegerConverter) else ["reject"]


def addresses(rule: Rule) -> Iterator[str]:
    """Yield what the rule's addresses say behind `/runs/` of a run called abc."""
    names = sorted(rule.arguments - {"run_id"})
    for values in product(*(values_of(rule, name) for name in names)):
        built = rule.build({"run_id": "abc"} | dict(zip(names, values, strict=True)))
        assert built is not None
        yield built[1].partition("/runs/")[2]


@pytest.fixture
def parts(app: Flask) -> list[str]:
    rules = [rule for rule in app.url_map.iter_rules() if f"{RUN}/" in rule.rule]
    return [address for rule in rules for address in addresses(rule)]


def test_every_address_of_a_part_is_refused_as_an_id(parts: list[str]) -> None:
    assert {"abc/status", "abc/steps/7", "abc/steps/7/input", "abc/events.csv"} <= set(parts)
    for address in parts:
        for run_id in (address, f"team/{address}"):
            with pytest.raises(InvalidValueError, match=r"^run_id: .* part of run .* end in another word"):
                check_new_run(Run(run_id=run_id, workflow_name="billing"))


def test_nothing_else_is(parts: list[str]) -> None:
    for pattern in PARTS_OF_RUNS:
        assert any(re.fullmatch(f"abc/{pattern}", address) for address in parts), f"{pattern}: of no address"
    for run_id in ("status", "steps/7", "abc/statuses", "status/abc", "abc/steps/seven", "abc/status/1"):
        check_new_run(Run(run_id=run_id, workflow_name="billing"))


def test_the_api_names_the_field_and_the_fix(app: Flask) -> None:
    answer = key_of(app, Role.RUNNER).post("/start_run", json={"workflow_name": "w", "run_id": "abc/status"})
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_value")
    assert "run_id: 'abc/status'" in answer.json["detail"]


@pytest.mark.parametrize("run_id", ["a\nb", "a\n", "\na", "x/status\n", "a\rb", "a\tb", "a\x7f", "a\x85b"])
def test_no_id_holds_a_control_character(app: Flask, run_id: str) -> None:
    answer = key_of(app, Role.RUNNER).post("/start_run", json={"workflow_name": "w", "run_id": run_id})
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_value")
    assert answer.json["detail"].startswith("run_id: ") and "leave out line breaks" in answer.json["detail"]


def test_every_id_that_is_taken_is_found_again(app: Flask) -> None:
    runner = key_of(app, Role.RUNNER)
    for run_id in ("a b", "a/b", "ü\u3000ü", "a\u2028b", "a?b#c%d;e", "a\\b", "-", "a//b", "a/", " a "):
        assert runner.post("/start_run", json={"workflow_name": "w", "run_id": run_id}).status_code == 200
        found = runner.get(f"/runs/{quote(run_id, safe='')}/status")
        assert (found.status_code, found.json["run_id"]) == (200, run_id)


def test_what_is_there_already_can_be_read(
    app: Flask, runs: RunFactory, page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("resume_engine.storage.sql_store.check_new_run", lambda run: None)
        run = runs.completed(run_id="abc/status")
    assert page_store.get_run("abc/status") == run
    listed = key_of(app, Role.AUDITOR).get("/runs").json["runs"]
    assert [found["run_id"] for found in listed] == ["abc/status"]


def test_no_run_takes_the_name_of_the_audit_of_everything_else(app: Flask) -> None:
    answer = key_of(app, Role.RUNNER).post("/start_run", json={"workflow_name": "w", "run_id": "control"})
    assert answer.status_code == 400 and answer.json["detail"].startswith("run_id: 'control' names the audit")
