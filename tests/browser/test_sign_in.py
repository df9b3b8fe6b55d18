"""Coming in, going out, and looking after people, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask

from tests.browser.conftest import Visit
from tests.browser.dashboard import Dashboard
from tests.factories import RunFactory
from tests.provision.app_fixtures import SYSTEM
from tests.webapp.helpers import PASSWORD, give_password
from webapp.accounts.records import Person, Purpose
from webapp.extensions import services

People = dict[str, Person]


@pytest.fixture
def door(visit: Visit) -> Callable[..., Dashboard]:
    """Open a browser as nobody yet."""

    def knock(**options: object) -> Dashboard:
        visitor = visit("alice", **options)
        visitor.page.context.clear_cookies()
        return visitor

    return knock


def sign_in(visitor: Dashboard, email: str, password: str = PASSWORD) -> None:
    visitor.page.get_by_label("Email", exact=True).fill(email)
    visitor.page.get_by_label("Password", exact=True).fill(password)
    visitor.button("Sign in").click()


def sign_out(visitor: Dashboard) -> None:
    visitor.page.locator("header details.menu > summary").click()
    visitor.button("Sign out").click()
    visitor.page.wait_for_url("**/login")


@pytest.mark.parametrize("java_script", [True, False])
def test_a_way_in_and_out(
    app: Flask, people: People, door: Callable[..., Dashboard], java_script: bool
) -> None:
    give_password(app, people["ana"])
    visitor = door(java_script_enabled=java_script)
    visitor.open("/runs?environment=prod")
    sign_in(visitor, "ana@example.org", "not this one at all")
    visitor.sees("Email or password is wrong.")
    assert visitor.page.get_by_label("Email", exact=True).input_value() == "ana@example.org"
    sign_in(visitor, "ana@example.org")
    visitor.page.wait_for_url("**/runs?environment=prod")
    sign_out(visitor)
    visitor.sees("You are signed out.")
    visitor.page.go_back()
    visitor.page.wait_for_url(re.compile("/login"))
    visitor.page.get_by_label("Password", exact=True).wait_for()


def test_somebody_new_comes_in_by_link_and_chooses_a_password(
    app: Flask, people: People, door: Callable[..., Dashboard]
) -> None:
    link = services(app).accounts.create_link(people["ana"].user_id, Purpose.INVITE, actor=SYSTEM)
    visitor = door()
    visitor.open(link.path)
    visitor.sees("Sign in as Ana")
    visitor.button("Sign in").click()
    visitor.page.get_by_label("New password").fill("too short")
    visitor.button("Save password").click()
    visitor.sees("at least 15 characters")
    visitor.page.get_by_label("New password").fill(PASSWORD)
    visitor.button("Save password").click()
    visitor.sees("Your password is changed.")
    sign_out(visitor)
    sign_in(visitor, "ana@example.org")
    visitor.page.locator("header details.menu").wait_for()
    visitor.open(link.path)
    visitor.sees("This link does not work any more")


def test_an_administrator_lets_somebody_in_and_shows_them_out(
    visit: Visit, door: Callable[..., Dashboard]
) -> None:
    otto = visit("otto")
    otto.open("/admin/users")
    otto.page.get_by_label("Email", exact=True).fill("mia@example.org")
    otto.page.get_by_label("Role", exact=True).select_option("auditor")
    otto.button("Add person").click()
    otto.sees("Sign-in link for mia")
    link = otto.page.locator("code").inner_text()
    mia = door()
    mia.open(link)
    mia.button("Sign in").click()
    mia.sees("Choose a password, so that you can sign in without a link.")
    assert mia.page.get_by_role("link", name="Admin").count() == 0
    otto.open("/admin/users")
    otto.button("Disable mia").click()
    otto.sees("mia is disabled and signed out everywhere.")
    mia.open("/account")
    mia.page.wait_for_url("**/login?next=/account")


def test_a_session_that_ended_meanwhile_is_said_on_the_page(
    app: Flask, people: People, runs: RunFactory, visit: Visit
) -> None:
    """What was typed stays where it is; nothing is sent anywhere else."""
    runs.blocked("permanent")
    ana = visit("ana")
    ana.open("/gates")
    ana.page.get_by_label("Note").fill("API key rotated")
    services(app).sessions.end_all(people["ana"], actor=SYSTEM)
    ana.button("Approve").click()
    ana.sees("You are signed out. Nothing was changed.")
    assert ana.page.get_by_label("Note").input_value() == "API key rotated"
    ana.page.get_by_role("link", name="Sign in").click()
    ana.page.wait_for_url("**/login?next=*gates*")


@pytest.mark.parametrize("address", ["/login", "/login?next=/account"])
def test_axe_finds_nothing_at_the_door(door: Callable[..., Dashboard], address: str) -> None:
    visitor = door()
    visitor.open(address)
    assert visitor.problems_on_all_screens() == []
    sign_in(visitor, "nobody@example.org")
    visitor.sees("Email or password is wrong.")
    assert visitor.problems_on_all_screens() == []


def test_axe_finds_nothing_inside(app: Flask, people: People, visit: Visit) -> None:
    services(app).accounts.disable(people["oscar"].user_id, actor=SYSTEM)
    give_password(app, people["ana"])
    otto = visit("otto")
    for address in ("/account", "/admin/users", "/no/such/page"):
        otto.open(address)
        assert otto.problems_on_all_screens() == [], address
    otto.open("/admin/users")
    otto.button("New sign-in link for Ana").click()
    otto.sees("Copy the link")
    assert otto.problems_on_all_screens() == []
    link = services(app).accounts.create_link(people["ana"].user_id, Purpose.SIGN_IN, actor=SYSTEM)
    otto.open(link.path)
    otto.sees("This replaces that session.")
    assert otto.problems_on_all_screens() == []
