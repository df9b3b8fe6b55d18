"""A POST with an Idempotency-Key acts once, however often it comes, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select, update

from resume_engine.core import clock
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import stored_answers
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, steps
from tests.webapp.api.caller import ApiClient, caller
from webapp import Settings, create_app
from webapp.api import deciding, repeats
from webapp.api.answer_store import GIVEN_UP_AFTER, KEPT_FOR, AnswerStore, StoredAnswer

START = {"workflow_name": "w"}


@dataclass(frozen=True)
class Place:
    """An application on one kind of database, and an operator of it."""

    app: Flask
    store: SqlCheckpointStore
    operator: ApiClient


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    if request.param == "postgres":
        settings = replace(settings, database_url=request.getfixturevalue("postgres_url"))
    with open_store(settings.database_url) as store:
        app = create_app(settings, store=store)
        yield Place(app, store, caller(app, Role.OPERATOR))


def keyed(key: str = "k-1") -> dict[str, str]:
    return {"Idempotency-Key": key}


def count_runs(operator: ApiClient) -> int:
    return len(operator.get("/runs").json["runs"])


def test_the_same_request_gets_the_same_bytes(place: Place) -> None:
    first = place.operator.post("/start_run", json=START, headers=keyed())
    again = place.operator.post("/start_run", json=START, headers=keyed())
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.data == first.data
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count_runs(place.operator) == 1


def test_another_body_or_place_is_refused(place: Place) -> None:
    place.operator.post("/start_run", json=START, headers=keyed())
    for path, body in (("/start_run", {"workflow_name": "other"}), ("/resume", START)):
        answer = place.operator.post(path, json=body, headers=keyed())
        assert (answer.status_code, answer.json["code"]) == (422, "idempotency_key_reused")
    assert count_runs(place.operator) == 1


def test_keys_of_two_callers_are_two(place: Place) -> None:
    other = caller(place.app, Role.RUNNER)
    place.operator.post("/start_run", json=START, headers=keyed())
    assert other.post("/start_run", json={"workflow_name": "mine"}, headers=keyed()).status_code == 200
    assert count_runs(place.operator) == 2


def test_a_decision_is_repeated_as_it_was(place: Place) -> None:
    run = RunFactory(place.store).blocked("permanent")
    path, body = f"/runs/{run.run_id}/approve", {"approved_by": "ana"}
    first = place.operator.post(path, json=body, headers=keyed())
    again = place.operator.post(path, json=body, headers=keyed())
    assert (again.status_code, again.data) == (200, first.data)
    assert place.operator.post(path, json=body, headers=keyed("k-2")).status_code == 409


def test_an_answer_is_repeated_with_the_version_it_told_of(place: Place) -> None:
    run = RunFactory(place.store).blocked("permanent", environment="prod")
    path, body = f"/runs/{run.run_id}/approve", {"approved_by": "ana"}
    first = place.operator.post(path, json=body, headers=keyed())
    acknowledged = f"/runs/{run.run_id}/ack_prod_resume"
    assert place.operator.post(acknowledged, json={"acknowledged_by": "ana"}).status_code == 200
    again = place.operator.post(path, json=body, headers=keyed())
    assert again.headers["Idempotency-Replayed"] == "true" and again.data == first.data
    assert first.headers["ETag"] and again.headers.get("ETag") == first.headers["ETag"]
    now = place.operator.get(f"/runs/{run.run_id}/status", headers={"If-None-Match": again.headers["ETag"]})
    assert now.status_code == 200, "it moved on since"


@pytest.mark.parametrize("headers", [{}, {"ETag": '"5-1f"'}, {"ETag": 'W/"5"', "Location": "/runs/a: b"}])
def test_an_answer_is_kept_as_it_was(headers: dict[str, str]) -> None:
    for body in ('{"a": "b: c\\n\\n"}\n', "", "[]", "\n\n"):
        kept = StoredAnswer(status=200, content_type="application/json", body=body, headers=headers)
        assert StoredAnswer.from_text(200, "application/json", kept.text) == kept


def test_a_refusal_is_judged_anew(place: Place) -> None:
    run = RunFactory(place.store).blocked("permanent")
    body = {"run_id": run.run_id}
    assert place.operator.post("/resume", json=body, headers=keyed()).status_code == 409
    place.operator.post(f"/runs/{run.run_id}/approve", json={"approved_by": "ana"})
    assert place.operator.post("/resume", json=body, headers=keyed()).status_code == 200


def test_one_of_many_at_once_works(place: Place) -> None:
    def send(_number: int) -> tuple[int, bytes]:
        client = ApiClient(place.app, place.app.response_class, use_cookies=False)
        client.key = place.operator.key
        answer = client.post("/start_run", json=START, headers=keyed())
        return answer.status_code, answer.data

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, range(24)))
    assert {status for status, _ in answers} <= {200, 409}
    assert len({body for status, body in answers if status == 200}) == 1
    assert count_runs(place.operator) == 1


class TestWhatDies:
    """A process that dies between the change and the answer does not lock the key for ever."""

    def die(
        self,
        place: Place,
        monkeypatch: pytest.MonkeyPatch,
        path: str,
        body: object,
        headers: dict[str, str] | None = None,
    ) -> None:
        with monkeypatch.context() as dying:
            dying.setattr(AnswerStore, "keep", lambda *_: None)
            assert place.operator.post(path, json=body, headers=headers or keyed()).status_code == 200

    def wait(self, place: Place) -> None:
        long_ago = clock.utc_now() - GIVEN_UP_AFTER
        with place.store.writing() as conn:
            conn.execute(update(stored_answers).values(created_at=long_ago))

    def test_a_run_is_not_started_twice(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self.die(place, monkeypatch, "/start_run", START)
        answer = place.operator.post("/start_run", json=START, headers=keyed())
        assert (answer.status_code, answer.json["code"]) == (409, "still_running")
        assert answer.headers["Retry-After"] == "1"
        self.wait(place)
        assert place.operator.post("/start_run", json=START, headers=keyed()).status_code == 200
        assert count_runs(place.operator) == 1

    def test_a_decision_is_recognised(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        run = RunFactory(place.store).blocked("permanent")
        path, body = f"/runs/{run.run_id}/approve", {"approved_by": "ana"}
        self.die(place, monkeypatch, path, body)
        self.wait(place)
        answer = place.operator.post(path, json=body, headers=keyed())
        assert (answer.status_code, answer.json["can_resume"]) == (200, True)

    @pytest.mark.parametrize("calls", [1, 2])
    @pytest.mark.parametrize("way", ["/approve", "/decisions"])
    def test_a_decision_is_recognised_whatever_became_of_the_run(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, way: str, calls: int
    ) -> None:
        runs = RunFactory(place.store)
        run = runs.blocked("permanent")
        [seen_failure] = [blocker.failure_key for blocker in runs.engine.get_resume_blockers(run.run_id)]
        path = f"/runs/{run.run_id}{way}"
        body = {"approved_by": "ana"} if way == "/approve" else {"kind": "human_approval"}
        seen = place.operator.get(f"/runs/{run.run_id}/status").headers["ETag"]
        headers = keyed() | {"If-Match": seen}
        for _ in range(calls):
            self.die(place, monkeypatch, path, body, headers)
            self.wait(place)
        with pytest.raises(PermanentStepError):
            runs.engine.resume(run.run_id, steps(3, fail_at=2, error=PermanentStepError("again")))
        answer = place.operator.post(path, json=body, headers=headers)
        assert answer.status_code == 200 and not answer.json["can_resume"], answer.text
        assert [made.failure_key for made in place.store.list_decisions(run.run_id)] == [seen_failure]

    def test_a_decision_made_just_before_is_another_one(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = RunFactory(place.store)
        run = runs.blocked("permanent")
        path, body = f"/runs/{run.run_id}/approve", {"approved_by": "ana"}
        assert place.operator.post(path, json=body, headers=keyed("k-0")).status_code == 200
        with pytest.raises(PermanentStepError):
            runs.engine.resume(run.run_id, steps(3, fail_at=2, error=PermanentStepError("again")))
        with monkeypatch.context() as failing:
            failing.setattr(deciding, "decide", lambda *_: 1 / 0)
            assert place.operator.post(path, json=body, headers=keyed()).status_code == 500
        answer = place.operator.post(path, json=body, headers=keyed())
        assert (answer.status_code, answer.json["can_resume"]) == (200, True)
        assert len(place.store.list_decisions(run.run_id)) == 2

    def test_the_first_of_two_people_is_recognised(
        self,
        settings: Settings,
        page_store: SqlCheckpointStore,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        rules = tmp_path / "policy.toml"
        rules.write_text('[[rule]]\nname = "two"\nenvironments = ["prod"]\napprovers = 2\n')
        app = create_app(replace(settings, policy_file=str(rules)), store=page_store)
        place = Place(app, page_store, caller(app, Role.OPERATOR))
        run = RunFactory(page_store).blocked("permanent", environment="prod")
        path, body = f"/runs/{run.run_id}/approve", {"approved_by": "ana", "note": "fine"}
        self.die(place, monkeypatch, path, body)
        self.wait(place)
        assert place.operator.post(path, json=body, headers=keyed()).status_code == 200
        other = {"approved_by": "ana", "note": "other"}
        self.wait(place)
        assert place.operator.post(path, json=other, headers=keyed("k-2")).status_code == 409

    def test_without_the_rule_the_run_would_start_twice(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(repeats, "run_id_of_request", lambda: None)
        self.die(place, monkeypatch, "/start_run", START)
        self.wait(place)
        place.operator.post("/start_run", json=START, headers=keyed())
        assert count_runs(place.operator) == 2


def test_answers_are_forgotten_after_a_month(place: Place) -> None:
    place.operator.post("/start_run", json=START, headers=keyed("old"))
    with place.store.writing() as conn:
        conn.execute(update(stored_answers).values(created_at=clock.utc_now() - 2 * KEPT_FOR))
    place.operator.post("/start_run", json=START, headers=keyed("new"))
    with place.store.reading() as conn:
        assert list(conn.execute(select(stored_answers.c.idempotency_key)).scalars()) == ["new"]


@pytest.mark.parametrize("key", ["", "x" * 256, "snow\u2603".encode().decode("latin-1")])
def test_a_key_that_is_none_is_refused(place: Place, key: str) -> None:
    answer = place.operator.post("/start_run", json=START, headers={"Idempotency-Key": key})
    assert answer.status_code == 400
    assert count_runs(place.operator) == 0
