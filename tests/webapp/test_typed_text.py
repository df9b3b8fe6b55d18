"""A form that is sent after its session ended: nothing is decided, and nothing of it travels or is kept here.

What was typed waits in the browser's tab (tests/browser/test_typed_text.py); the server has no part in it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import text

from tests.factories import RunFactory
from tests.provision.app_fixtures import PageClient
from tests.webapp.conftest import FakeClock
from tests.webapp.helpers import give_password, sign_in_by_form
from webapp.accounts.records import Person

SignIn = Callable[[str], PageClient]
TYPED = "typed in the night c4nary9x"


def hidden(name: str, page: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("limit", [{"minutes": 31}, {"hours": 13}])
def test_after_signing_in_they_are_back_at_the_page_and_nothing_is_decided(
    app: Flask,
    people: dict[str, Person],
    runs: RunFactory,
    sign_in: SignIn,
    fake_clock: FakeClock,
    limit: dict[str, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    give_password(app, people["ana"])
    run = runs.blocked(fail_at=1)
    ana = sign_in("ana")
    form = ana.get("/gates").text.partition('class="gate-form"')[2]
    data = {"failure_key": "1:1", "note": TYPED, "next": hidden("next", form).replace("&amp;", "&")}
    fake_clock.forward(**limit)
    with caplog.at_level(logging.DEBUG):
        answer = ana.post(f"/runs/{run.run_id}/decisions/human_approval", data=data)
    assert answer.status_code == 303
    assert answer.location.startswith(f"/login?next=/gates?run%3D{run.run_id}%26")
    door = ana.get(answer.location)
    assert "You were signed out in the meantime. Nothing was changed" in door.text
    assert '<p class="no-script">Without JavaScript what you typed is not kept.' in door.text
    back = sign_in_by_form(ana, "ana@example.org", data={"next": data["next"]})
    assert back.location == data["next"]
    assert "Approve</button>" in ana.get(back.location).text
    assert not runs.store.list_decisions(run.run_id)
    with runs.store.reading() as conn:
        kept = conn.execute(text("select * from user_sessions")).all()
    for place in (answer.location, answer.text, str(answer.headers), door.text, caplog.text, repr(kept)):
        assert TYPED not in place


def test_several_together_lead_back_too(runs: RunFactory, sign_in: SignIn, client: PageClient) -> None:
    runs.blocked(message="Invalid API key")
    page = sign_in("ana").get("/gates/approvals?cause=Invalid+API+key").text
    where = hidden("next", page.partition('class="bulk"')[2])
    assert where == "/gates/approvals?cause=Invalid+API+key"
    answer = client.post("/gates/approvals", data={"note": TYPED, "next": where})
    assert answer.location == "/login?next=/gates/approvals?cause%3DInvalid%2BAPI%2Bkey"


@pytest.mark.parametrize(
    "evil", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "", TYPED]
)
def test_nobody_is_led_elsewhere(client: PageClient, evil: str) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = client.post("/runs/x/decisions/reject", data={"next": evil, "note": TYPED}, headers=headers)
    assert answer.location == "/login?next=/"
    assert TYPED not in str(answer.headers)


def test_no_request_of_another_site_fills_a_form(runs: RunFactory, sign_in: SignIn) -> None:
    """Neither a post nor an address puts a word into a form of somebody who is signed in."""
    run = runs.blocked(fail_at=1)
    ana = sign_in("ana")
    data = {"failure_key": "1:1", "note": TYPED, "item": f"{run.run_id}@1:1"}
    for path in (f"/runs/{run.run_id}/decisions/human_approval", "/gates/approvals"):
        answer = ana.post(path, data=data, headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 403
        assert TYPED not in answer.text
    for path in ("/", "/gates", "/gates/approvals", f"/runs/{run.run_id}"):
        assert TYPED not in ana.get(path, query_string={"note": TYPED, "typed": TYPED}).text


def test_forms_say_who_types_and_which_ones_sign_out(runs: RunFactory, sign_in: SignIn) -> None:
    """What the script goes by."""
    run = runs.blocked(fail_at=1)
    ana = sign_in("ana")
    for path, forms in (("/gates", 2), ("/", 2), (f"/runs/{run.run_id}", 2), ("/gates/approvals", 1)):
        page = ana.get(path).text
        assert page.count('data-typed-by="ana@example.org"') == forms, path
        assert page.count('data-me="ana@example.org"') == 1
        assert re.search(r'action="/logout" method="post" data-signs-out', page)
    account = ana.get("/account").text
    assert re.search(r'action="/account/sessions/end-all" method="post" data-signs-out', account)
    assert len(re.findall(r'action="/account/sessions/\w+/end" method="post" data-signs-out', account)) == 1
    assert "data-me" not in PageClient(ana.application).get("/login").text
