"""The audit log: one line an event, found by its filters, taken away as a file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.clock import utc_now
from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import PageClient
from tests.webapp.helpers import events
from webapp.pages import audit

SignIn = Callable[[str], PageClient]
OLGA = Actor(name="olga@example.com", role=Role.OPERATOR, channel=Channel.DASHBOARD)
PETRA = Actor(name="petra@example.com", role=Role.ADMIN, channel=Channel.CLI)


@pytest.fixture
def alice(sign_in: SignIn) -> PageClient:
    return sign_in("alice")


def write(
    store: SqlCheckpointStore,
    kind: EventType = EventType.GATE_APPROVED,
    actor: Actor = OLGA,
    *,
    ago: timedelta = timedelta(),
    run_id: str | None = None,
    note: str | None = None,
) -> None:
    """Append an event."""
    at = utc_now() - ago
    store.append_event(AuditEvent.by(actor, kind, at, run_id=run_id, note=note, failure_key="12:14"))


def lines(text: str) -> list[str]:
    """Return the lines of the page as plain text."""
    rows = re.findall(r"<tr>\s*<td.*?</tr>", text, re.S)
    return [" ".join(unescape(re.sub(r"<[^>]+>", " ", row)).split()) for row in rows]


def test_one_line_an_event_actor_and_act_first(page_store: SqlCheckpointStore, alice: PageClient) -> None:
    write(page_store, run_id="5f2c81d4-aaaa", note="key rotated")
    text = alice.get("/audit?kind=gate.approved").text
    (line,) = lines(text)
    assert line.startswith("olga@example.com approved step 12 5f2c81d4 key rotated operator · dashboard ")
    assert 'href="/runs/5f2c81d4-aaaa"' in text
    assert re.search(r'<time [^>]*title="\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"', text)


def test_a_line_says_what_it_was_about(alice: PageClient, sign_in: SignIn) -> None:
    sign_in("otto")
    assert alice.post("/runs/r-1/decisions/reject", data={"note": "x"}).status_code == 403
    text = " | ".join(lines(alice.get("/audit").text))
    assert "added a person alice@example.org · auditor" in text
    assert "alice@example.org was refused access POST · /runs/r-1/decisions/reject" in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("actor=petra@example.com", 1),
        ("actor=nobody", 0),
        ("kind=gate.", 3),
        ("kind=gate.rejected", 1),
        ("kind=user.role_changed&actor=petra@example.com", 1),
        ("run=r-1", 2),
        ("run=r-1&kind=gate.rejected", 1),
        ("actor=olga@example.com&since=1h", 2),
        ("actor=olga@example.com&since=24h", 3),
    ],
)
def test_filters(page_store: SqlCheckpointStore, alice: PageClient, query: str, expected: int) -> None:
    write(page_store, EventType.GATE_APPROVED, run_id="r-1", ago=timedelta(hours=3))
    write(page_store, EventType.GATE_REJECTED, run_id="r-1")
    write(page_store, EventType.GATE_REFUSED, run_id="r-2")
    write(page_store, EventType.USER_ROLE_CHANGED, PETRA)
    text = alice.get(f"/audit?{query}").text
    assert len(lines(text)) == expected
    if not expected:
        assert "No event matches these filters" in text


def test_a_range_of_days(page_store: SqlCheckpointStore, alice: PageClient) -> None:
    for day in (1, 2, 3):
        moment = datetime(2026, 3, day, 23, 30, tzinfo=UTC)
        page_store.append_event(AuditEvent.by(OLGA, EventType.GATE_APPROVED, moment, note=f"day {day}"))
    text = alice.get("/audit?from=2026-03-02&to=2026-03-02").text
    assert [re.search(r"day \d", line)[0] for line in lines(text)] == ["day 2"]  # type: ignore[index]
    assert len(lines(alice.get("/audit?from=2026-03-02T23:30Z&to=2026-03-03T23:30Z").text)) == 1


@pytest.mark.parametrize(
    "query",
    [
        "kind=everything",
        "since=ever",
        "since=1h&from=2026-01-01",
        "from=yesterday",
        "before=x",
        "after=-1",
        "actor=a&actor=b",
    ],
)
def test_an_address_that_makes_no_sense_is_refused_and_explained(alice: PageClient, query: str) -> None:
    for address in (f"/audit?{query}", f"/audit/export.csv?{query}"):
        answer = alice.get(address)
        assert answer.status_code == 400
        assert query.partition("=")[0] in answer.text


def test_pages_follow_each_other_without_gap(
    page_store: SqlCheckpointStore, alice: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PAGE_SIZE", 2)
    for number in range(5):
        write(page_store, note=f"note {number}")

    def notes(text: str) -> list[str]:
        return re.findall(r"note \d", " ".join(lines(text)))

    def link(text: str, word: str) -> str:
        found = re.search(rf'href="([^"]+)"[^>]*>(?:<svg.*?</svg>)?{word}', text)
        assert found is not None, word
        return unescape(found.group(1))

    first = alice.get("/audit?kind=gate.approved").text
    second = alice.get(link(first, "Older")).text
    third = alice.get(link(second, "Older")).text
    assert [notes(page) for page in (first, second, third)] == [
        ["note 4", "note 3"],
        ["note 2", "note 1"],
        ["note 0"],
    ]
    assert ">Older" not in third
    assert notes(alice.get(link(third, "Newer")).text) == ["note 2", "note 1"]
    assert notes(alice.get(link(third, "Newest")).text) == ["note 4", "note 3"]
    past = alice.get("/audit?kind=gate.approved&before=1")
    assert "No event is older than that" in past.text


def test_the_three_reasons_for_no_lines_differ(alice: PageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No event matches these filters" in alice.get("/audit?actor=nobody").text
    assert "No event is older than that" in alice.get("/audit?before=1").text
    monkeypatch.setattr(audit, "_page", lambda address: audit.EventPage(events=()))
    assert "Nothing has been recorded yet" in alice.get("/audit").text


def test_jsonl_holds_everything_that_the_filter_shows(
    page_store: SqlCheckpointStore, alice: PageClient
) -> None:
    for number in range(3):
        write(page_store, run_id="r-1", note=f"note {number} ü \u2028")
    write(page_store, run_id="r-2")
    answer = alice.get("/audit/export.jsonl?run=r-1")
    assert answer.mimetype == "application/x-ndjson"
    assert answer.is_streamed
    assert re.fullmatch(
        r'attachment; filename="audit-events-\d{8}T\d{6}Z\.jsonl"', answer.headers["Content-Disposition"]
    )
    found = [json.loads(line) for line in answer.get_data(as_text=True).splitlines()]
    assert [event["note"] for event in found] == [f"note {n} ü \u2028" for n in range(3)]
    stored = [e.to_dict() for e in events(page_store, EventType.GATE_APPROVED) if e.run_id == "r-1"]
    assert found == stored


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1"])
def test_no_cell_of_the_csv_is_a_formula(
    page_store: SqlCheckpointStore, alice: PageClient, start: str
) -> None:
    write(page_store, note=f'{start},"quoted"\nand more')
    text = alice.get("/audit/export.csv?kind=gate.approved").get_data(as_text=True)
    (row,) = list(csv.DictReader(io.StringIO(text, newline="")))
    assert row["note"] == f'\'{start},"quoted"\nand more'
    assert row["actor"] == "olga@example.com"


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_an_export_is_an_event_and_does_not_hold_itself(
    page_store: SqlCheckpointStore, alice: PageClient, name: str
) -> None:
    write(page_store)
    text = alice.get(f"/audit/export.{name}?since=24h").get_data(as_text=True)
    (exported,) = events(page_store, EventType.AUDIT_EXPORTED)
    assert exported.actor == "alice@example.org"
    assert exported.payload == {"what": f"events.{name}", "filter": {"since": "24h"}}
    assert "audit.exported" not in text
    assert "gate.approved" in text


def test_only_known_files_for_people_who_are_signed_in(alice: PageClient, client: PageClient) -> None:
    assert alice.get("/audit/export.xlsx").status_code == 404
    assert alice.post("/audit/export.csv").status_code == 405
    assert client.get("/audit").status_code == 303
    assert client.get("/audit/export.csv").status_code == 303


def test_html_shows_as_text(page_store: SqlCheckpointStore, alice: PageClient) -> None:
    evil = "<img src=x onerror=alert(1)>"
    actor = Actor(name=evil, role=Role.OPERATOR, channel=Channel.DASHBOARD)
    write(page_store, actor=actor, run_id=evil[:36], note=evil)
    for answer in (alice.get("/audit"), alice.get("/audit", query_string={"actor": evil})):
        assert evil not in answer.text
        assert "&lt;img src=x" in answer.text


def test_at_most_three_statements(runs: RunFactory, alice: PageClient, statements: list[str]) -> None:
    for _ in range(30):
        runs.cleared(count=2)
    alice.get("/audit")
    statements.clear()
    alice.get("/audit?kind=gate.")
    assert len(statements) <= 3, "\n".join(statements)  # session, number of gates, events
