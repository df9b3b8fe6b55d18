"""Keys at the door of the API: who comes in, who is told what, and who comes too often."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import SYSTEM, Statements
from tests.webapp.api.caller import caller
from tests.webapp.conftest import FakeClock
from tests.webapp.helpers import address_of, events
from webapp import Settings, create_app, permissions
from webapp.api import repeats
from webapp.demo.run_ids import DEMO_RUN_IDS
from webapp.errors import SAID_TO_CALLERS, KeyMissingError
from webapp.extensions import services
from webapp.keys.guard import GUESSES
from webapp.keys.limits import Rate
from webapp.keys.store import NewKey

MakeApp = Callable[..., Flask]
WRONG = "re_abcdefgh_" + "x" * 43


@pytest.fixture
def make_app(settings: Settings, page_store: SqlCheckpointStore) -> MakeApp:
    """Return an application with other settings, on the same database."""
    return lambda **changes: create_app(replace(settings, **changes), store=page_store)


@pytest.fixture
def key(app: Flask) -> NewKey:
    """An operator's key."""
    return services(app).keys.create("ci", Role.OPERATOR, actor=SYSTEM)


def ask(app: Flask, key: str | None, path: str = "/api/runs", **options: Any) -> TestResponse:
    """Send one request, as a program without cookies does."""
    headers = options.pop("headers", {})
    if key is not None:
        headers = {"Authorization": f"Bearer {key}", **headers}
    client = FlaskClient(app, app.response_class, use_cookies=False)
    return client.open(path, method=options.pop("method", "GET"), headers=headers, **options)


def start(app: Flask, key: str | None, **options: Any) -> TestResponse:
    return ask(app, key, "/api/start_run", method="POST", json={"workflow_name": "w", **options})


class TestLifeCycle:
    """Made, used, over."""

    def test_revoked(self, app: Flask, key: NewKey) -> None:
        assert ask(app, key.text).status_code == 200
        services(app).keys.revoke(key.key.key_id, actor=SYSTEM)
        answer = ask(app, key.text)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "was revoked" in answer.json["detail"]  # type: ignore[index]

    def test_expired_and_rotated(self, app: Flask, key: NewKey, fake_clock: FakeClock) -> None:
        new = services(app).keys.rotate(key.key.key_id, actor=SYSTEM, grace=timedelta(hours=1))
        assert [ask(app, each.text).status_code for each in (key, new)] == [200, 200]
        fake_clock.forward(hours=1)
        assert [ask(app, each.text).status_code for each in (key, new)] == [401, 200]

    def test_the_key_is_one_look_up(self, app: Flask, key: NewKey, statements: Statements) -> None:
        ask(app, key.text)
        statements.clear()
        ask(app, key.text)
        assert sum("api_keys" in statement for statement in statements) == 1
        assert not [s for s in statements if s.split()[0] in ("INSERT", "UPDATE", "DELETE")]


class TestHeader:
    """Where a key stands, and where it does not."""

    @pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {}", "Bearer {}  "])
    def test_forms_that_are_understood(self, app: Flask, key: NewKey, form: str) -> None:
        assert ask(app, None, headers={"Authorization": form.format(key.text)}).status_code == 200

    @pytest.mark.parametrize("form", ["{}", "Basic {}", "Token {}", "Bearer", "Bearer{}", "Bearer  ", ""])
    def test_forms_that_are_not(self, app: Flask, key: NewKey, form: str) -> None:
        answer = ask(app, None, headers={"Authorization": form.format(key.text)})
        assert answer.status_code == 401
        assert answer.json["detail"] == SAID_TO_CALLERS[KeyMissingError]  # type: ignore[index]

    @pytest.mark.parametrize(
        "form", ["Bearer {0} {0}", "Bearer {0},Bearer {0}", "Bearer {0}x", "Bearer ключ"]
    )
    def test_what_is_no_key(self, app: Flask, key: NewKey, form: str) -> None:
        value = form.format(key.text).encode().decode("latin-1")
        assert ask(app, None, headers={"Authorization": value}).status_code == 401

    @pytest.mark.parametrize("with_header", [True, False])
    def test_not_in_the_address(
        self, app: Flask, key: NewKey, caplog: pytest.LogCaptureFixture, with_header: bool
    ) -> None:
        caplog.set_level(logging.DEBUG)
        for name in ("api_key", "key", "token", "access_token", "q", "cursor"):
            answer = ask(app, key.text if with_header else None, f"/api/runs?{name}={key.text}")
            assert answer.status_code == 400, name
            assert "does not belong in the address" in answer.json["detail"], name  # type: ignore[index]
            assert key.text not in answer.text + caplog.text

    def test_not_in_a_cookie_or_another_header(self, app: Flask, key: NewKey) -> None:
        for headers in ({"X-API-Key": key.text}, {"Cookie": f"session={key.text}"}):
            assert ask(app, None, headers=headers).status_code == 401


class TestCanary:
    """A key that was used everywhere stands nowhere."""

    def test_no_secret_is_kept_or_said(
        self, app: Flask, key: NewKey, page_store: SqlCheckpointStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        secret = key.text[12:]
        answers = [
            start(app, key.text),
            ask(app, key.text, f"/api/{key.text}"),
            ask(app, key.text, f"/api/runs?key={key.text}"),
            ask(app, f"{key.text}x"),
            ask(app, key.text[:-2]),
        ]
        services(app).keys.revoke(key.key.key_id, actor=SYSTEM)
        answers.append(ask(app, key.text))
        assert not any(secret in answer.text for answer in answers)
        assert secret not in caplog.text
        with page_store.reading() as conn:
            tables = conn.execute(text("select name from sqlite_master where type = 'table'")).scalars().all()
            dump = "".join(str(row) for t in tables for row in conn.execute(text(f'select * from "{t}"')))
        assert key.key.key_id in dump
        assert secret not in dump


class TestFromSettings:
    """API_KEYS_JSON, DEMO_OPERATOR_KEY and no keys at all."""

    def test_keys_of_the_environment(self, make_app: MakeApp) -> None:
        app = make_app(api_keys={"a-key-for-readers": Role.AUDITOR, "a-key-for-runners": Role.RUNNER})
        assert ask(app, "a-key-for-readers").status_code == 200
        assert start(app, "a-key-for-readers").status_code == 403
        assert start(app, "a-key-for-runners").status_code == 200
        assert ask(app, "a-key-for-nobody").status_code == 401

    def test_the_audit_names_the_key_and_not_its_text(
        self, make_app: MakeApp, page_store: SqlCheckpointStore
    ) -> None:
        keys = {"a-key-for-runners": Role.RUNNER}
        start(make_app(api_keys=keys), "a-key-for-runners")
        start(make_app(api_keys={"a-key-for-others": Role.RUNNER} | keys), "a-key-for-runners")
        start(make_app(api_keys={"a-key-for-others": Role.RUNNER} | keys), "a-key-for-others")
        first, again, other = [event.actor for event in events(page_store, EventType.RUN_STARTED)]
        assert re.fullmatch("key [0-9a-f]{8} of API_KEYS_JSON", first)
        assert first == again != other, "a key is the same caller wherever it stands"

    def test_the_demo_key_is_for_the_demo_runs(self, make_app: MakeApp, runs: RunFactory) -> None:
        app = make_app(demo_operator_key="a-key-for-the-demo", api_keys={"a-key-for-all-runs": Role.OPERATOR})
        run = start(app, "a-key-for-all-runs", run_id=sorted(DEMO_RUN_IDS)[0])
        other = start(app, "a-key-for-all-runs")
        assert run.status_code == other.status_code == 200
        assert ask(app, "a-key-for-the-demo", f"/api/runs/{run.json['run_id']}").status_code == 200  # type: ignore[index]
        assert ask(app, "a-key-for-the-demo", f"/api/runs/{other.json['run_id']}").status_code == 403  # type: ignore[index]
        assert start(app, "a-key-for-the-demo").status_code == 403

    def test_what_the_demo_key_is_refused_is_told(
        self, make_app: MakeApp, runs: RunFactory, page_store: SqlCheckpointStore
    ) -> None:
        app = make_app(demo_operator_key="a-key-for-the-demo")
        run_id = runs.blocked(run_id=sorted(DEMO_RUN_IDS)[0]).run_id
        path, body = f"/api/runs/{run_id}/decisions", {"kind": "reject", "note": "no"}
        assert ask(app, "a-key-for-the-demo").status_code == 403
        assert ask(app, "a-key-for-the-demo", path, method="POST", json=body).status_code == 403
        told = [event.payload["needs"] for event in events(page_store, EventType.ACCESS_DENIED)]
        assert told == ["a key for other runs than those of the demo", "a key that may cancel runs"]

    def test_without_keys_pages_of_other_sites_stay_out(self, make_app: MakeApp) -> None:
        app = make_app(api_auth_enabled=False, cors_origins=("https://ops.example.org",))
        assert start(app, None).status_code == 200
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            answer = ask(
                app, None, "/api/start_run", method="POST", json={"workflow_name": "w"}, headers=headers
            )
            assert answer.status_code == 403, headers
        shared = {"Origin": "https://ops.example.org", "Sec-Fetch-Site": "cross-site"}
        assert ask(app, None, headers=shared).status_code == 200


class TestLimits:
    """Too often is said with when to come again."""

    def test_a_key(self, make_app: MakeApp, key: NewKey) -> None:
        app = make_app(api_rate_limit=Rate(5, 3_600))
        answers = [ask(app, key.text) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 720
        assert answers[-1].json["code"] == "too_many_requests"  # type: ignore[index]
        other = services(app).keys.create("other", Role.AUDITOR, actor=SYSTEM)
        assert ask(app, other.text).status_code == 200

    def test_refused_requests_count_too(self, make_app: MakeApp) -> None:
        app = make_app(api_rate_limit=Rate(3, 3_600), api_keys={"a-key-for-readers": Role.AUDITOR})
        assert [start(app, "a-key-for-readers").status_code for _ in range(4)] == [403, 403, 403, 429]

    def test_guesses_of_fifty_threads(self, app: Flask, key: NewKey, page_store: SqlCheckpointStore) -> None:
        assert ask(app, key.text).status_code == 200
        found: list[int] = []

        def guess(number: int) -> None:
            for attempt in range(10):
                given = f"re_abcdefgh_{number:021d}{attempt:022d}"
                found.append(ask(app, given).status_code)

        threads = [threading.Thread(target=guess, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(found) == 500
        assert set(found) == {401, 429}
        assert found.count(401) <= GUESSES.times + 10  # what refills meanwhile
        assert ask(app, WRONG).headers["Retry-After"]
        assert ask(app, key.text).status_code == 200  # whoever shares the address goes on
        assert len(events(page_store, EventType.KEY_REFUSED)) == 1

    def test_keys_of_the_environment_are_not_guessed_either(self, make_app: MakeApp) -> None:
        app = make_app(api_keys={"a-key-that-works": Role.AUDITOR, "a-key-that-is-guessed": Role.AUDITOR})
        assert ask(app, "a-key-that-works").status_code == 200
        for number in range(GUESSES.times + 5):
            ask(app, f"a-wrong-key-{number}")
        assert ask(app, "a-key-that-is-guessed").status_code == 429
        assert ask(app, "a-key-that-works").status_code == 200

    def test_it_is_the_guard_that_stops_them(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services(app).guard, "wait_of_guess", lambda address, key: 0.0)
        found = [ask(app, f"re_abcdefgh_{number:043d}").status_code for number in range(GUESSES.times + 20)]
        assert set(found) == {401}

    def test_a_key_that_is_refused_is_told_once(
        self, app: Flask, key: NewKey, page_store: SqlCheckpointStore
    ) -> None:
        services(app).keys.revoke(key.key.key_id, actor=SYSTEM)
        for _ in range(5):
            assert ask(app, key.text).status_code == 401
        (event,) = events(page_store, EventType.KEY_REFUSED)
        assert event.actor == f"key {key.key.key_id}"
        assert event.payload["reason"] == "revoked"

    def test_denials_of_one_key_are_told_once_a_minute(
        self, make_app: MakeApp, page_store: SqlCheckpointStore
    ) -> None:
        app = make_app(api_keys={"a-key-for-readers": Role.AUDITOR})
        for _ in range(20):
            assert start(app, "a-key-for-readers").status_code == 403
        assert len(events(page_store, EventType.ACCESS_DENIED)) == 1

    def test_another_environment_is_told_too(self, app: Flask, page_store: SqlCheckpointStore) -> None:
        key = services(app).keys.create("dev only", Role.RUNNER, actor=SYSTEM, environments=[Environment.DEV])
        assert [start(app, key.text, environment="prod").status_code for _ in range(3)] == [403] * 3
        (event,) = events(page_store, EventType.ACCESS_DENIED)
        assert event.actor == key.key.actor.name
        assert event.payload["needs"] == "a key for prod"


class TestCors:
    """Scripts of other sites."""

    SITE = "https://ops.example.org"
    PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    @pytest.fixture
    def shared(self, make_app: MakeApp) -> Flask:
        """An application whose API one other site may use."""
        return make_app(cors_origins=(self.SITE,))

    def test_the_named_site_may(self, shared: Flask, key: NewKey) -> None:
        asked = ask(shared, None, method="OPTIONS", headers={"Origin": self.SITE, **self.PREFLIGHT})
        assert asked.status_code == 204
        assert asked.headers["Access-Control-Allow-Origin"] == self.SITE
        assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in asked.headers
        answer = ask(shared, key.text, headers={"Origin": self.SITE})
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == self.SITE
        assert "Origin" in answer.headers["Vary"]

    def test_an_answer_that_is_repeated_can_be_told_from_the_first(self, shared: Flask) -> None:
        runner = caller(shared, Role.RUNNER)
        for repeated in (False, True):
            headers = {"Origin": self.SITE, "Idempotency-Key": "k-1"}
            answer = runner.post("/start_run", json={"workflow_name": "w"}, headers=headers)
            assert (repeats.REPLAYED in answer.headers) is repeated
            assert repeats.REPLAYED in answer.headers["Access-Control-Expose-Headers"].split(", ")

    def test_errors_can_be_read_too(self, shared: Flask) -> None:
        answer = ask(shared, WRONG, headers={"Origin": self.SITE})
        assert answer.status_code == 401
        assert answer.headers["Access-Control-Allow-Origin"] == self.SITE

    OTHERS = [
        "https://evil.example",
        "http://ops.example.org",
        "https://ops.example.org:8443",
        "https://ops.example.org.evil.example",
        "https://evil.example/https://ops.example.org",
        "HTTPS://OPS.EXAMPLE.ORG",
        "null",
        "*",
        "",
    ]

    def test_nobody_else_may(self, shared: Flask, key: NewKey) -> None:
        for origin in self.OTHERS:
            for answer in (
                ask(shared, None, method="OPTIONS", headers={"Origin": origin, **self.PREFLIGHT}),
                ask(shared, key.text, headers={"Origin": origin}),
            ):
                assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
                assert "Origin" in answer.headers["Vary"]

    def test_pages_are_never_shared(self, shared: Flask) -> None:
        for path in ("/login", "/", "/health", "/runs"):
            for method in ("GET", "OPTIONS"):
                answer = ask(
                    shared, None, path, method=method, headers={"Origin": self.SITE, **self.PREFLIGHT}
                )
                assert not [name for name, _ in answer.headers if name.startswith("Access-Control")], path

    def test_off_unless_named(self, app: Flask, key: NewKey) -> None:
        answer = ask(app, key.text, headers={"Origin": self.SITE})
        assert "Access-Control-Allow-Origin" not in answer.headers


def run_routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    """Yield (method, rule, path) of every route of the API that names a run."""
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.startswith("api_") or "run_id" not in rule.arguments:
            continue
        if permissions.permission_of(app.view_functions[rule.endpoint]) == permissions.PUBLIC:
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule.rule, address_of(rule)


def test_a_key_for_dev_touches_nothing_in_prod(app: Flask, runs: RunFactory) -> None:
    """Walk every route that names a run, with a key of every right and another environment."""
    from tests.webapp.helpers import SOME_ID

    key = services(app).keys.create("dev only", Role.ADMIN, actor=SYSTEM, environments=[Environment.DEV])
    everywhere = services(app).keys.create("everywhere", Role.RUNNER, actor=SYSTEM)
    made = start(app, everywhere.text, run_id=SOME_ID, environment="prod")
    assert made.status_code == 200
    walked = list(run_routes(app))
    assert len(walked) >= 8
    for method, rule, path in walked:
        body = {} if method != "GET" else None
        answer = ask(app, key.text, path, method=method, json=body)
        # A body that is not right may be refused first; what is never seen is a success.
        assert answer.status_code in (400, 403, 404, 422), (method, rule, answer.status_code, answer.text)
    assert ask(app, key.text, "/api/resume", method="POST", json={"run_id": SOME_ID}).status_code == 403
    listed = ask(app, key.text, "/api/runs").json
    assert SOME_ID not in str(listed)
    assert SOME_ID in str(ask(app, everywhere.text, "/api/runs").json)
