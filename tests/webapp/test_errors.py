"""One table from errors to answers; no answer tells more than a person needs."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable
from dataclasses import replace

import psycopg2
import pytest
from flask import Flask
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from resume_engine.core import errors as engine_errors
from resume_engine.core.permissions import Permission, Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import PageClient
from tests.stores.over_http import StoreOverHttp
from tests.webapp.api.caller import caller
from webapp import Settings, create_app, errors
from webapp.permissions import requires

SignIn = Callable[[str], PageClient]
ENGINE_ERRORS = [
    cls
    for _, cls in inspect.getmembers(engine_errors, inspect.isclass)
    if issubclass(cls, engine_errors.ResumeEngineError)
]


@pytest.mark.parametrize("cls", ENGINE_ERRORS, ids=lambda cls: cls.__name__)
def test_every_engine_error_has_a_row(cls: type[Exception]) -> None:
    assert cls in errors.STATUS_OF_ERROR


def test_every_status_has_words() -> None:
    assert set(errors.STATUS_OF_ERROR.values()) <= set(errors.ANSWERS)


def test_the_nearest_class_decides() -> None:
    class Special(engine_errors.StaleRunError):
        """Not in the table."""

    assert errors.status_of(Special("r", "a", "b")) == 409
    assert errors.status_of(ValueError("x")) == 500


def raising(app: Flask, error: Exception) -> None:
    """Add a page that fails with `error`."""
    app.add_url_rule("/fail", "fail", failing_view(error))


def failing_view(error: Exception) -> Callable[..., str]:
    @requires(Permission.RUNS_READ)
    def fail(**_: object) -> str:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (engine_errors.RunNotFoundError("r-1"), 404),
        (engine_errors.RunExistsError("r-1"), 409),
        (engine_errors.InvalidValueError("note", "is too long"), 400),
        (engine_errors.StaleRunError("r-1", "version 1", "version 2"), 409),
    ],
)
def test_words_of_the_engine_reach_the_person(
    app: Flask, sign_in: SignIn, error: Exception, status: int
) -> None:
    from markupsafe import escape

    raising(app, error)
    answer = sign_in("ana").get("/fail")
    assert answer.status_code == status
    assert str(escape(str(error))) in answer.text
    assert "<!doctype html>" in answer.text


def test_html_in_an_error_is_text(app: Flask, sign_in: SignIn) -> None:
    raising(app, engine_errors.RunNotFoundError("<script>alert(1)</script>"))
    assert "<script>alert" not in sign_in("ana").get("/fail").text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("secret-detail"), 500),
        (ValueError("secret-detail"), 500),
        (IntegrityError("secret-detail", {}, Exception("x")), 500),
        (OperationalError("secret-detail", {}, Exception("x")), 503),
        (engine_errors.SchemaOutdatedError("secret-detail", "y"), 503),
    ],
)
def test_failures_of_ours_tell_nothing_but_a_number(
    app: Flask, sign_in: SignIn, caplog: pytest.LogCaptureFixture, error: Exception, status: int
) -> None:
    raising(app, error)
    answer = sign_in("ana").get("/fail")
    assert answer.status_code == status
    assert "secret-detail" not in answer.text
    assert "Traceback" not in answer.text
    number = answer.headers["X-Request-Id"]
    assert number in answer.text
    assert number in caplog.text
    assert "secret-detail" in caplog.text  # in the log it is found again


def lost(cls: type[DBAPIError], **how: bool) -> DBAPIError:
    """Return what SQLAlchemy makes of psycopg2's error when PostgreSQL went away."""
    words = "server closed the connection unexpectedly"
    return cls("secret-detail", {}, getattr(psycopg2, cls.__name__)(words), **how)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (lost(OperationalError), 503),
        (lost(DatabaseError), 503),
        (lost(InternalError, connection_invalidated=True), 503),
        (lost(InternalError), 500),
        (PoolTimeoutError("secret-detail"), 503),
        (DatabaseError("secret-detail", {}, sqlite3.DatabaseError("file is not a database")), 500),
    ],
)
def test_a_database_that_went_away_is_worth_another_try(app: Flask, error: Exception, status: int) -> None:
    app.view_functions["api_runs.list_runs"] = failing_view(error)
    answer = caller(app, Role.AUDITOR).get("/runs")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, "1" if status == 503 else None)
    assert "secret-detail" not in answer.text


def test_our_client_asks_again_for_a_database_that_went_away(
    page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, load, failures = RunFactory(page_store).completed(), page_store.load_summary, [lost(DatabaseError)]

    def away(run_id: str) -> object:
        if failures:
            raise failures.pop()
        return load(run_id)

    monkeypatch.setattr(page_store, "load_summary", away)
    with StoreOverHttp(page_store) as remote:
        found = remote.load_summary(run.run_id)
    assert found is not None and found.status == "completed" and not failures


def test_a_part_of_a_page_gets_a_part(app: Flask, sign_in: SignIn) -> None:
    raising(app, engine_errors.RunNotFoundError("r-1"))
    answer = sign_in("ana").get("/fail", htmx=True)
    assert answer.status_code == 404
    assert "<html" not in answer.text
    assert 'id="error"' in answer.text


def test_even_a_broken_error_page_is_an_answer(
    app: Flask, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("the template is gone")

    monkeypatch.setattr(errors, "render_template", broken)
    answer = sign_in("ana").get("/no/such/page")
    assert answer.status_code == 404
    assert answer.mimetype == "text/plain"
    assert "template" not in answer.text


def test_another_host_name_is_refused(client: PageClient) -> None:
    answer = client.get("/login", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert "evil.example" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_own_names_are_accepted(client: PageClient, host: str) -> None:
    assert client.get("/login", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("runs.example.org", 200),
        ("RUNS.example.org:443", 200),
        ("a.ops.example.org", 200),
        ("ops.example.org", 400),
        ("evil-ops.example.org", 400),
        ("localhost", 400),
        ("runs.example.org.evil.example", 400),
        ("runs.example.org@evil.example", 400),
    ],
)
def test_names_can_be_configured(
    settings: Settings, page_store: SqlCheckpointStore, host: str, status: int
) -> None:
    app = create_app(
        replace(settings, trusted_hosts=("runs.example.org", ".ops.example.org")), store=page_store
    )
    assert app.test_client().get("/login", headers={"Host": host}).status_code == status


def test_the_wrong_method_is_said(sign_in: SignIn) -> None:
    answer = sign_in("ana").get("/logout")
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]


def test_a_body_that_is_too_large(sign_in: SignIn) -> None:
    answer = sign_in("ana").post("/account/password", data={"new": "x" * 1_100_000})
    assert answer.status_code == 413
    assert "Nothing was changed" in answer.text


def test_too_many_fields(sign_in: SignIn) -> None:
    fields = {f"f{number}": "x" for number in range(500)}
    answer = sign_in("ana").post("/account/password", data=fields, content_type="multipart/form-data")
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("address", "data"),
    [
        ("/account/password", {"new": "a\0b"}),
        ("/account/password", {"a\0b": "x"}),
        ("/account/sessions/a%00b/end", {}),
        ("/account/sessions/x/end?y=%00", {}),
    ],
)
def test_nul_is_refused_before_the_database_sees_it(
    sign_in: SignIn, address: str, data: dict[str, str]
) -> None:
    assert sign_in("ana").post(address, data=data).status_code == 400


@pytest.mark.parametrize(
    "address",
    ["/%ff%fe", "/account?x=%ff", "/a%0d%0ab", "/account/sessions/%ed%a0%80/end", "/" + "x" * 5_000],
)
def test_odd_addresses_are_no_failures_of_ours(sign_in: SignIn, address: str) -> None:
    ana = sign_in("ana")
    assert ana.get(address).status_code < 500
    assert ana.post(address).status_code < 500


def test_an_id_from_outside_is_not_taken_over(client: PageClient) -> None:
    answer = client.get("/login", headers={"X-Request-Id": "forged"})
    assert answer.headers["X-Request-Id"] != "forged"


def test_a_refusal_stays_one_when_the_database_is_away_before_it_is_told(
    app: Flask, runs: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("server closed the connection"))

    run = runs.blocked("permanent")
    monkeypatch.setattr(errors, "count_people", lost)
    answer = caller(app, Role.RUNNER).post("/resume", json={"run_id": run.run_id})
    assert (answer.status_code, answer.json["code"]) == (409, "resume_blocked")
    assert answer.json["detail"]["blockers"][0]["required_action"] == "human_approval"
