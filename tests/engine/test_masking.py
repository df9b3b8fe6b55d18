"""Secrets are found by name and by shape, in values, messages and cut texts; nothing else is touched."""

from __future__ import annotations

import io
import json
import logging
import time
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from resume_engine import ResumeEngine
from resume_engine.cli import main
from resume_engine.core.audit_export import csv_lines, jsonl_lines
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.masking import (
    MASK,
    NAMES_VARIABLE,
    is_secret_name,
    mask_json_text,
    mask_text,
    mask_value,
    masked_logger,
)
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.gate_queries import GateQueries
from resume_engine.storage.open_store import open_store
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_page_queries import RunPageQueries
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.step_queries import StepQueries
from resume_engine.worker import Worker

CANARY = "c4nary9x"


def _words(text: str) -> list[str]:
    return text.split()


SECRET_NAMES = [
    "password",
    "userPassword",
    "DB_PASSWORD",
    "db-password",
    "PGPASSWORD",
    "dbpasswd",
    "pwd",
    "passphrase",
    "passcode",
    "api-key",
    "apiKey",
    "APIKey",
    "x-api-key",
    "X-Auth-Token",
    "access_token",
    "refreshToken",
    "githubtoken",
    "token",
    "clientSecret",
    "secret",
    "SECRET_KEY",
    "private_key",
    "privateKey",
    "Set-Cookie",
    "cookie",
    "Authorization",
    "proxy-authorization",
    "credentials",
    "aws_secret_access_key",
    "jwt",
    "otp",
    "cvv",
    "card_number",
    "connection_string",
    "signingKey",
    "sshKey",
    "session_key",
    "csrf_token",
    "password1",
]
PLAIN_NAMES = [
    "max_tokens",
    "total_tokens",
    "token_count",
    "tokens_used",
    "prompt_tokens",
    "token_type",
    "idempotency_key",
    "key",
    "keys",
    "monkey",
    "keyboard",
    "secretary",
    "passport",
    "passenger",
    "author",
    "prior_authorization",
    "authorization_id",
    "name",
    "value",
    "status",
    "step_name",
    "input_hash",
    "pass",
    "passed",
    "tokenizer",
    "cardinal",
    "cookiecutter_x",
    "bass",
    "session_id",
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_that_are_masked(name: str) -> None:
    assert is_secret_name(name)
    assert CANARY not in mask_json_text(json.dumps({"a": [{name: CANARY}], "b": 1}))
    assert CANARY not in mask_text(f"failed: {name}={CANARY}, retry")
    assert CANARY not in mask_text(f'{{"{name}": "{CANARY}"}}')
    assert CANARY not in mask_text(f"{{'{name}': '{CANARY} {CANARY}'}}")


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_names_that_are_shown(name: str) -> None:
    text = json.dumps({name: "shown"})
    assert mask_json_text(text) is text
    assert mask_text(f"{name}=shown") == f"{name}=shown"


@pytest.mark.parametrize(
    "text",
    [
        "401 for Authorization: Bearer {}",
        "headers={{'Authorization': 'Basic {}'}}",
        "Bearer {} is not valid",
        "could not connect to postgres://app:{}@db:5432/claims",
        "could not connect to postgres://app:p@{}@db:5432/claims",
        "GET https://user:{}@example.org/x?y=1 failed",
        "GET https://example.org/x?access_token={}&page=2 failed",
        "login(user='bob', password='{}')",
        "login(user='bob', password=b'{}')",
        "curl --password {} https://example.org",
        "export API_KEY={}",
        "wrong password '{}' for bob",
        "Cookie: session={}; theme=dark",
        'payload was {{"credentials": {{"pin": "{}"}}, "n": 1}}',
        "got {{'auth': {{'user': 'a', 'x': ['{}']}}}}",
        'nested {{\\"password\\": \\"{}\\"}}',
        "line one\npassword: {}\nline three",
        "-----BEGIN RSA PRIVATE KEY-----\nMII{}\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMII{}",
        "key sk-abcdefghij{} used",
        "token eyJhbGciOiJIUzI1NiJ9.{}.sig",
        "AWS AKIA1234567890AB{} refused".upper().replace("{}", "{}"),
    ],
)
def test_secrets_inside_texts(text: str) -> None:
    secret = CANARY.upper() if text.isupper() else CANARY
    said = text.format(secret)
    assert secret not in mask_text(said)
    assert MASK in mask_text(said)
    assert secret not in mask_json_text(json.dumps({"error": said, "other": [said]}))


@pytest.mark.parametrize(
    "text",
    [
        "Invalid API key",
        "KeyError: 'password'",
        "The token expired",
        "http://host:8080/path timed out",
        "ssh://git@github.com/x",
        "password: None",
        "Basic information was missing",
        "Bearer authentication is required",
        "tokens=812 max_tokens=4096",
        "card was declined",
        "step 3 failed: secretary not found",
    ],
)
def test_ordinary_messages_stay(text: str) -> None:
    assert mask_text(text) == text


def test_what_tells_nothing_stays() -> None:
    data = {"password": None, "has_password": True, "token": "", "tokens": 812}
    assert mask_value(data) is data
    assert mask_value({"password": 1234}) == {"password": MASK}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda children: (
            st.lists(children, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "n", "password", "x y"]), children, max_size=4)
        ),
        max_leaves=8,
    ),
    st.booleans(),
)
@settings(max_examples=150)
def test_only_values_under_secret_names_change(data: Any, ascii_only: bool) -> None:
    text = json.dumps(data, ensure_ascii=ascii_only)

    def tells_nothing(value: Any) -> bool:
        return value is None or value is True or value is False or value == ""

    def expected(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: MASK if name == "password" and not tells_nothing(item) else expected(item)
                for name, item in value.items()
            }
        return [expected(item) for item in value] if isinstance(value, list) else value

    assert json.loads(mask_json_text(text)) == expected(data)


@given(st.data())
@settings(max_examples=150)
def test_a_cut_preview_shows_no_part_of_a_secret(data: st.DataObject) -> None:
    secret = "s3cr" + "x" * 12
    body = {
        "a": f"line\nurl=postgres://u:{secret}@h/db and password={secret} é",
        "deep": {"credentials": {"one": secret, "two": [secret, {"three": secret}]}},
        "nested": json.dumps({"api_key": secret, "in": json.dumps({"token": secret})}),
        "token": secret,
        "z": "end",
    }
    text = json.dumps(body, ensure_ascii=data.draw(st.booleans()))
    cut = text[: data.draw(st.integers(0, len(text)))]
    assert "s3cr" not in mask_json_text(cut)


def test_more_names_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mask_value({"taxNumber": "x"}) == {"taxNumber": "x"}
    monkeypatch.setenv(NAMES_VARIABLE, "tax_number, iban")
    assert mask_value({"taxNumber": "x", "IBAN": "y", "z": 1}) == {"taxNumber": MASK, "IBAN": MASK, "z": 1}
    assert mask_text("iban=DE89") == f"iban={MASK}"


@pytest.mark.parametrize(
    "piece",
    [
        'a="',
        "password='",
        "a:",
        "://a:",
        "token ",
        '\\"',
        "credentials={",
        '{"a":',
        "eyJ",
        "x",
        "bearer ",
        "key=",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    began = time.perf_counter()
    mask_text(text + " password=x")
    mask_json_text('"' + text)
    assert time.perf_counter() - began < 10, "it grows with the length, not with its square"


# What people are shown


def failing_run(engine: ResumeEngine) -> str:
    run = engine.start_run("billing", metadata={"apiKey": CANARY, "team": "claims"})

    def fail(data: dict[str, Any], key: str) -> dict[str, Any]:
        raise PermanentStepError(f"login with password={CANARY} failed at postgres://u:{CANARY}@h/db")

    with pytest.raises(PermanentStepError):
        engine.execute_workflow(
            run.run_id,
            [("first", lambda data, key: {"token": CANARY, "ok": 1}), ("second", fail)],
            initial_input={"secrets": {"a": [CANARY]}, "user": "bob"},
        )
    return run.run_id


def test_everything_the_read_side_gives_is_masked() -> None:
    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run_id = failing_run(engine)
        queries, attempts, gates = RunQueries(store), StepQueries(store), GateQueries(store)
        head = queries.load_head(run_id)
        assert head is not None
        shown = [
            head,
            queries.list_runs(RunFilter()),
            queries.list_blocked(),
            queries.load_runs([run_id]),
            queries.failure_causes(head.summary.created_at.replace(year=2000)),
            attempts.list_steps(run_id),
            attempts.load_step_view(run_id, 1),
            attempts.list_attempts(run_id, latest=9),
            attempts.page_of_attempts(run_id),
            [attempts.load_step_json(run_id, n, w) for n in (0, 1) for w in ("input", "output")],
            gates.oldest_waiting(),
            gates.load_case(run_id),
            RunPageQueries(store).load(run_id),
            RunPageQueries(store).trace_start(run_id, limit=9),
        ]
        engine.grant_human_approval(run_id, "olga", note=f"used token={CANARY}")
        audit = AuditQueries(store)
        shown += [
            gates.load_case(run_id),
            gates.decided_since(head.summary.created_at),
            audit.list_events(EventFilter()),
            list(audit.stream_run(run_id)),
            "".join(jsonl_lines(audit.stream_run(run_id))),
            "".join(csv_lines(audit.stream_run(run_id))),
        ]
        for number, found in enumerate(shown):
            assert CANARY not in repr(found), number
        assert "bob" in repr(shown) and MASK in repr(shown)
        kept = store.get_run(run_id)
        assert kept is not None and kept.steps[0].output_data == {"token": CANARY, "ok": 1}
        assert CANARY in str(kept.steps[1].error_message), "the record itself is never changed"


def test_a_cause_with_a_secret_still_finds_its_runs() -> None:
    with open_store("sqlite:///:memory:") as store:
        run_id = failing_run(ResumeEngine(store))
        head = RunQueries(store).load_head(run_id)
        assert head is not None
        (cause,) = RunQueries(store).failure_causes(head.summary.created_at.replace(year=2000))
        page = RunQueries(store).list_runs(RunFilter(message_start=cause.message_start))
        assert [run.run_id for run in page.items] == [run_id]


def test_logs_are_masked() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = masked_logger("tests.masked")
    logger.addHandler(handler)
    try:
        logger.warning("failed: %s for %s", f"password={CANARY}", "bob")
        logger.warning("nothing of note: %s", "fine")
        try:
            raise ValueError(f"token={CANARY}")
        except ValueError:
            logger.warning("again", exc_info=True)
    finally:
        logger.removeHandler(handler)
    said = stream.getvalue()
    assert CANARY not in said
    assert f"failed: password={MASK} for bob" in said and "ValueError: token=" in said and "fine" in said


def test_the_worker_logs_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run_id = failing_run(engine)
        engine.grant_human_approval(run_id, "olga")

        def fail(data: dict[str, Any], key: str) -> dict[str, Any]:
            raise PermanentStepError(f"password={CANARY}")

        Worker(engine, {"billing": [("first", fail), ("second", fail)]}).run_once()
    assert run_id in caplog.text
    assert CANARY not in caplog.text


def test_the_command_line_is_masked(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with open_store(url) as store:
        run_id = failing_run(ResumeEngine(store))
    for words in (
        ["runs", "list"],
        ["runs", "list", "--json"],
        ["runs", "show", run_id],
        ["runs", "show", run_id, "--json"],
        ["gates", "list"],
        ["audit", "show"],
        ["audit", "export", run_id, "--format", "jsonl"],
        ["audit", "export", run_id, "--format", "trace"],
    ):
        answer = CliRunner().invoke(main, [*words, "--database", url])
        assert answer.exit_code == 0, (words, answer.output)
        assert CANARY not in answer.output, words


def test_the_command_line_reveals_only_on_demand_and_on_record(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with open_store(url) as store:
        run_id = failing_run(ResumeEngine(store))
        trace = ResumeEngine(store).get_audit_log(run_id)
    shown = CliRunner().invoke(
        main, ["runs", "show", run_id, "--json", "--reveal", "--as", "olga", "--database", url]
    )
    assert json.loads(shown.output)["steps"][0]["output_data"] == {"token": CANARY, "ok": 1}
    export = ["audit", "export", run_id, "--reveal", "--as", "olga", "--database", url]
    assert CliRunner().invoke(main, export).output == trace
    assert CliRunner().invoke(main, [*export, "--format", "csv"]).exit_code == 2
    with open_store(url) as store:
        looks = [e for e in store.list_events(run_id) if e.event_type == "payload.revealed"]
        assert [(e.actor, e.payload) for e in looks] == [
            ("olga", {"field": "run"}),
            ("olga", {"field": "audit log"}),
        ]
