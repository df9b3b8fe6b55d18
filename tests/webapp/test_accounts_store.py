"""What two people do to accounts at once, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import SYSTEM, add_person
from tests.webapp.conftest import FakeClock
from webapp.accounts.login_links import LOCAL_ADMIN, create_login_link, local_admin
from webapp.accounts.records import AccountError, Purpose, token_hash
from webapp.accounts.session_store import NewSession, SessionStore
from webapp.accounts.store import AccountStore
from webapp.accounts.throttle import address_scope, email_scope


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlCheckpointStore]:
    """A store on each database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'x.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    with open_store(url) as opened:
        yield opened


def test_two_administrators_cannot_remove_each_other_at_once(store: SqlCheckpointStore) -> None:
    accounts = AccountStore(store)
    ana, otto = add_person(store, "ana", Role.ADMIN), add_person(store, "otto", Role.ADMIN)

    def demote(user_id: int) -> bool:
        try:
            return accounts.set_role(user_id, Role.AUDITOR, actor=SYSTEM)
        except AccountError:
            return False

    for _ in range(10):
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(demote, [ana.user_id, otto.user_id]))
        assert sorted(done) == [False, True]
        for person in (ana, otto):
            accounts.set_role(person.user_id, Role.ADMIN, actor=SYSTEM)


def test_one_email_one_person(store: SqlCheckpointStore) -> None:
    def add(_: int) -> bool:
        try:
            AccountStore(store).add("mia@example.org", role=Role.AUDITOR, actor=SYSTEM)
        except AccountError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(add, range(8))) == [False] * 7 + [True]


def test_guesses_at_once_are_counted(store: SqlCheckpointStore, fake_clock: FakeClock) -> None:
    """Without turns, many would read the same count and slip through together."""
    sessions = SessionStore(store)
    scopes = (email_scope("ana@example.org"), address_scope("192.0.2.1"))
    with ThreadPoolExecutor(10) as pool:
        waits = list(pool.map(lambda _: sessions.reserve_attempt(scopes), range(60)))
    assert waits.count(None) == 5


def test_a_link_lets_one_in(store: SqlCheckpointStore) -> None:
    ana = add_person(store, "ana", Role.OPERATOR)
    token = (
        AccountStore(store).create_link(ana.user_id, Purpose.SIGN_IN, actor=SYSTEM).path.rpartition("/")[2]
    )

    def enter(number: int) -> bool:
        new = NewSession(
            session_hash=token_hash(str(number)), person=ana, how="link", link_hash=token_hash(token)
        )
        try:
            SessionStore(store).start(new)
        except AccountError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(enter, range(8))) == [False] * 7 + [True]


def test_the_local_administrator_is_made_once_and_mended(store: SqlCheckpointStore) -> None:
    accounts = AccountStore(store)
    first = local_admin(store)
    assert (first.email, first.role) == (LOCAL_ADMIN, Role.ADMIN)
    add_person(store, "otto", Role.ADMIN)
    accounts.disable(first.user_id, actor=SYSTEM)
    again = local_admin(store)
    assert again.user_id == first.user_id
    found = accounts.get(first.user_id)
    assert found is not None and found.is_active
    assert create_login_link(store, found).path.startswith("/login/link/")


def test_can_anybody_sign_in(store: SqlCheckpointStore) -> None:
    accounts = AccountStore(store)
    assert not accounts.can_anybody_sign_in()
    ana = add_person(store, "ana", Role.OPERATOR)
    add_person(store, "otto", Role.ADMIN)
    assert not accounts.can_anybody_sign_in()
    create_login_link(store, ana)
    assert accounts.can_anybody_sign_in()
    accounts.disable(ana.user_id, actor=SYSTEM)
    assert not accounts.can_anybody_sign_in()
    accounts.enable(ana.user_id, actor=SYSTEM)
    accounts.set_password(ana.user_id, "some hash", actor=SYSTEM)
    assert accounts.can_anybody_sign_in()
