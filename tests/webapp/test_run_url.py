"""The explorer's address, read and written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from werkzeug.datastructures import MultiDict

from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_filter import RunFilter
from webapp.pages import run_url

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)


def read(query: str) -> run_url.RunListAddress:
    return run_url.read(MultiDict(parse_qsl(query, keep_blank_values=True)), NOW)


def test_an_address_without_parameters_asks_for_every_run() -> None:
    asked = read("")
    assert asked.filter == RunFilter()
    assert not asked.problems
    assert not asked.is_filtered
    assert asked.href() == "/runs"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=blocked", RunFilter(state=RunState.BLOCKED)),
        ("workflow=claims_intake", RunFilter(workflow="claims_intake")),
        ("environment=prod", RunFilter(environment=Environment.PROD)),
        ("failure=partial", RunFilter(classification=FailureClassification.PARTIAL)),
        ("blocked_by=prod_resume_ack", RunFilter(blocked_by=GateAction.PROD_RESUME_ACK)),
        ("since=24h", RunFilter(since=NOW - timedelta(hours=24))),
        ("since=30d", RunFilter(since=NOW - timedelta(days=30))),
        ("from=2026-11-01", RunFilter(since=datetime(2026, 11, 1, tzinfo=UTC))),
        ("to=2026-11-01", RunFilter(until=datetime(2026, 11, 2, tzinfo=UTC))),  # the whole day
        ("to=2026-11-01T10:00", RunFilter(until=datetime(2026, 11, 1, 10, tzinfo=UTC))),
        ("from=2026-11-01T10:00%2B02:00", RunFilter(since=datetime(2026, 11, 1, 8, tzinfo=UTC))),
        ("q=%20%20claims%20", RunFilter(search="claims")),
        (
            "error_type=TimeoutError&message=gateway%20",
            RunFilter(error_type="TimeoutError", message_start="gateway "),
        ),
        ("message=one%0D%0Atwo", RunFilter(message_start="one\ntwo")),  # as a browser's form writes line ends
        ("status=&workflow=&q=", RunFilter()),
        ("status=failed&status=failed", RunFilter(state=RunState.FAILED)),
    ],
)
def test_every_filter_is_read(query: str, expected: RunFilter) -> None:
    asked = read(query)
    assert asked.filter == expected
    assert not asked.problems


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("status=faild", "State: “faild” is not known. Choose one of pending, running,"),
        (
            "environment=production",
            "Environment: “production” is not known. Choose one of dev, staging, prod.",
        ),
        ("failure=x", "Failure class: “x” is not known."),
        ("blocked_by=me", "Blocked by: “me” is not known."),
        ("since=2w", "Created: “2w” is not known. Choose one of 1h, 24h, 7d, 30d"),
        ("from=yesterday", "From: “yesterday” is no time."),
        ("to=0001-01-01T00:00%2B14:00", "To: “0001-01-01T00:00+14:00” is no time."),
        ("to=9999-12-31", "To: “9999-12-31” is no time."),
        ("from=2026-11-03&to=2026-11-01", "From: begins after the time given as To."),
        ("q=" + "x" * 5_000, "Search: has 5,000 characters, at most 255 are looked for."),
        ("workflow=a%00b", "Workflow: holds a NUL character"),
        ("cursor=nonsense", "Page: this address does not lead to a page."),
        ("status=failed&status=blocked", "State: given 2 times. Keep one."),
        ("colour=red", "There is no filter called “colour”. There are: q, status,"),
    ],
)
def test_what_cannot_be_understood_is_said_and_never_ignored(query: str, says: str) -> None:
    problems = read(query).problems
    assert len(problems) == 1
    assert problems[0].startswith(says)


@pytest.mark.parametrize("row_id", ["a\x00b", "\ud800"])
def test_a_cursor_that_no_database_can_hold_is_refused(row_id: str) -> None:
    import base64
    import json

    parts = json.dumps(["2026-11-22T00:00:00+00:00", row_id, 0])
    text = base64.urlsafe_b64encode(parts.encode()).decode().rstrip("=")
    assert read(f"cursor={text}").problems


def test_an_address_survives_being_read_and_written() -> None:
    query = "q=cl&status=blocked&workflow=a+b%26c&environment=prod&failure=partial&since=7d"
    asked = read(query)
    assert urlsplit(asked.href()).query == query
    assert read(urlsplit(asked.href()).query).filter == asked.filter


def test_a_changed_address_begins_at_the_first_page() -> None:
    cursor = Cursor(moment=NOW, row_id="x").encode()
    asked = read(f"status=failed&cursor={cursor}")
    assert asked.cursor == Cursor(moment=NOW, row_id="x")
    assert asked.href(environment="prod") == "/runs?status=failed&environment=prod"
    assert asked.href(cursor="abc") == "/runs?status=failed&cursor=abc"
    assert asked.href(status=None) == "/runs"


def test_each_chip_takes_one_filter_away() -> None:
    chips = read("status=blocked&blocked_by=human_approval&since=24h&from=2026-11-01").chips()
    assert [(chip.label, chip.value, chip.without) for chip in chips] == [
        ("State", "blocked", "/runs?blocked_by=human_approval&since=24h&from=2026-11-01"),
        ("Blocked by", "approval", "/runs?status=blocked&since=24h&from=2026-11-01"),
        ("Created", "last 24 hours", "/runs?status=blocked&blocked_by=human_approval&from=2026-11-01"),
        ("From", "2026-11-01 UTC", "/runs?status=blocked&blocked_by=human_approval&since=24h"),
    ]


def test_what_a_page_shows_is_read_back_whatever_the_ids_hold() -> None:
    args = MultiDict([("shown", "3-blocked:a:b c"), ("shown", "no colon"), ("shown", "1-failed:\ud800")])
    assert run_url.read_shown(args, 50) == {"a:b c": "3-blocked"}
    assert run_url.read_shown(MultiDict([("shown", f"1-x:{n}") for n in range(99)]), 50).keys() == {
        str(n) for n in range(50)
    }
