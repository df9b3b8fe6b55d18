"""A body that did not arrive as a whole changes nothing, whatever server it comes by."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.unreader import IterUnreader

from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import PageClient
from tests.webapp.api.caller import ApiClient, caller
from webapp import MAX_BODY_BYTES
from webapp.api.bodies import MAX_PAYLOAD_BYTES

START = b'{"workflow_name": "w"}'
FORM = "application/x-www-form-urlencoded"


class _Message:
    """What the reader of chunks asks of the request that it belongs to."""

    def parse_headers(self, lines: bytes, from_trailer: bool) -> list[str]:
        raise ValueError(lines)


def of_length(announced: int, sent: bytes) -> dict[str, Any]:
    """Return what gunicorn makes of a body of which `sent` arrives before the connection ends."""
    body = Body(LengthReader(IterUnreader([sent]), announced))
    return {"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": str(announced)}


def chunked(sent: bytes) -> dict[str, Any]:
    """Return what gunicorn makes of chunks."""
    body = Body(ChunkedReader(_Message(), IterUnreader([sent])))
    return {"wsgi.input": body, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}


def one_chunk(body: bytes) -> dict[str, Any]:
    return chunked(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def post(client: ApiClient, path: str, environ: dict[str, Any]) -> Any:
    return client.post(path, content_type="application/json", environ_overrides=environ)


@pytest.fixture
def runner(app: Flask) -> ApiClient:
    return caller(app, Role.RUNNER)


@pytest.mark.parametrize(("announced", "sent"), [(30, b""), (100, START), (len(START) + 1, START)])
def test_a_body_that_was_cut_off_is_refused(runner: ApiClient, announced: int, sent: bytes) -> None:
    answer = post(runner, "/start_run", of_length(announced, sent))
    assert (answer.status_code, answer.json["code"]) == (400, "bad_request")
    assert "did not arrive" in answer.json["detail"]
    assert runner.get("/runs").json["runs"] == []


def test_no_decision_comes_of_headers_alone(app: Flask, runs: RunFactory) -> None:
    run, operator = runs.blocked("partial"), caller(app, Role.OPERATOR)
    assert post(operator, f"/runs/{run.run_id}/compensate", of_length(40, b"")).status_code == 400
    assert operator.get(f"/runs/{run.run_id}/decisions").json["decisions"] == []


def test_no_form_counts_in_part(
    sign_in: Callable[..., PageClient], runs: RunFactory, page_store: SqlCheckpointStore
) -> None:
    run, ana = runs.blocked("permanent", fail_at=1), sign_in("ana")
    sent = f"csrf_token={ana.csrf}&failure_key=1:1&next=/gates&note=half+of+a".encode()
    statuses = [
        ana.post(
            f"/runs/{run.run_id}/decisions/human_approval",
            content_type=FORM,
            environ_overrides=of_length(length, sent),
            token=False,
        ).status_code
        for length in (len(sent) + 10, len(sent))
    ]
    assert statuses == [400, 303]
    assert len(page_store.list_decisions(run.run_id)) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}xx0\r\n\r\n",
        b'2;\xff"\r\n{}\r\n0\r\n\r\n',
        b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n",
        b"2\r\n{}\r\n0\r\n",
        b"16\r\n{}",
        b"",
    ],
)
def test_chunks_that_are_none_are_refused(runner: ApiClient, sent: bytes) -> None:
    assert post(runner, "/start_run", chunked(sent)).status_code == 400


@pytest.mark.parametrize(
    ("more", "status"), [(b"", 200), (b" ", 413), (b"garbage", 413), (b" " * 99_999, 413)]
)
def test_chunks_beyond_the_limit_are_refused(runner: ApiClient, more: bytes, status: int) -> None:
    answer = post(runner, "/start_run", one_chunk(START.ljust(MAX_PAYLOAD_BYTES) + more))
    assert answer.status_code == status


def test_chunks_of_a_decision_are_as_short_as_a_form(app: Flask, runs: RunFactory) -> None:
    run, operator = runs.blocked("partial"), caller(app, Role.OPERATOR)
    path = f"/runs/{run.run_id}/compensate"
    assert post(operator, path, one_chunk(b"{}".ljust(MAX_BODY_BYTES) + b"garbage")).status_code == 413
    assert post(operator, path, one_chunk(b"{}".ljust(MAX_BODY_BYTES))).status_code == 200


def test_without_a_length_nothing_is_read(runner: ApiClient) -> None:
    assert post(runner, "/start_run", {"wsgi.input": io.BytesIO(START)}).status_code == 422


def test_no_body_waits_for_another_one(app: Flask) -> None:
    both = threading.Barrier(2)

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            both.wait(10)
            return super().read(size)

    def send(client: ApiClient) -> None:
        environ = of_length(len(START), START) | {"wsgi.input": Slow(START)}
        statuses.append(post(client, "/start_run", environ).status_code)

    statuses: list[int] = []
    threads = [threading.Thread(target=send, args=(caller(app, Role.RUNNER),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [200, 200]
