"""API keys in a real browser."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from tests.browser.conftest import Visit
from tests.browser.dashboard import Dashboard
from tests.provision.app_fixtures import SYSTEM
from webapp.extensions import services
from webapp.keys.records import KeyRefusedError

KEY = re.compile(r"re_[a-z0-9]{8}_[\w-]{43}")


def works(app: Flask, text: str) -> bool:
    try:
        services(app).keys.authenticate(text)
    except KeyRefusedError:
        return False
    return True


def create(otto: Dashboard, name: str) -> str:
    otto.open("/admin/users")
    otto.page.get_by_role("link", name="API keys").click()
    otto.page.get_by_label("Name", exact=True).fill(name)
    otto.page.get_by_label("Role", exact=True).select_option("operator")
    otto.page.get_by_label("staging").check()
    otto.button("Create key").click()
    otto.page.get_by_role("heading", name=f"API key {name}").wait_for()
    return otto.page.locator("code.secret").inner_text()


@pytest.mark.parametrize("java_script", [True, False])
def test_a_key_is_made_rotated_and_revoked(app: Flask, visit: Visit, java_script: bool) -> None:
    otto = visit("otto", java_script_enabled=java_script)
    first = create(otto, "claims-runner")
    assert KEY.fullmatch(first)
    assert works(app, first)
    otto.page.get_by_role("link", name="Back to API keys").click()
    otto.sees("claims-runner")
    assert not KEY.search(otto.page.content())
    (key,) = services(app).keys.list_keys()
    assert (key.role, key.environments) == (Role.OPERATOR, (Environment.STAGING,))
    otto.page.get_by_role("link", name=f"Rotate claims-runner ({key.key_id})").click()
    otto.page.get_by_label("goes on working").select_option("1")
    otto.button("Rotate key").click()
    second = otto.page.locator("code.secret").inner_text()
    assert works(app, first) and works(app, second)
    otto.page.get_by_role("link", name="Back to API keys").click()
    otto.page.get_by_role("link", name=f"Revoke claims-runner ({key.key_id})").click()
    assert works(app, first)
    otto.button("Revoke key").click()
    otto.sees("is revoked: its next request is refused.")
    assert not works(app, first)
    assert works(app, second)


def test_the_key_is_copied_and_not_said(visit: Visit) -> None:
    otto = visit("otto", permissions=["clipboard-read", "clipboard-write"])
    key = create(otto, "ci")
    otto.button("Copy the key").click()
    otto.page.wait_for_function("document.querySelector('#say').textContent.includes('Copied')")
    assert otto.page.evaluate("navigator.clipboard.readText()") == key
    assert otto.page.locator("#say").inner_text() == "Copied the key"


def test_axe_finds_nothing(app: Flask, visit: Visit) -> None:
    otto = visit("otto")
    otto.open("/admin/keys")
    otto.sees("There is no key yet.")
    keys = services(app).keys
    live = keys.create("claims-runner", Role.RUNNER, actor=SYSTEM, environments=[Environment.PROD])
    keys.rotate(live.key.key_id, actor=SYSTEM)
    keys.revoke(keys.create("old tool", Role.OPERATOR, actor=SYSTEM).key.key_id, actor=SYSTEM)
    other = keys.create("dashboards of the claims department, read only", Role.AUDITOR, actor=SYSTEM)
    keys.authenticate(other.text)
    for address in ("", f"/{other.key.key_id}/rotate", f"/{other.key.key_id}/revoke"):
        otto.open(f"/admin/keys{address}")
        assert otto.problems_on_all_screens() == [], address
    otto.page.set_viewport_size({"width": 1280, "height": 844})
    create(otto, "ci")
    assert otto.problems_on_all_screens() == []
