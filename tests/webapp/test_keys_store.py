"""API keys: made, used, rotated, ended; the secret itself is kept nowhere."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from resume_engine.core import clock
from resume_engine.core.audit import EventType
from resume_engine.core.masking import mask_text
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from resume_engine.storage.schema import api_keys
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import SYSTEM, Statements
from tests.webapp.conftest import FakeClock
from tests.webapp.helpers import events
from webapp.keys.records import (
    KEY_PATTERN,
    KeyChangeError,
    KeyHashing,
    KeyRefusedError,
    KeyState,
    new_key_text,
)
from webapp.keys.store import GRACE, KeyStore, NewKey

PEPPER = "one secret of this server, long enough"


@pytest.fixture
def keys(page_store: SqlCheckpointStore) -> KeyStore:
    """Keys hashed under a server's secret."""
    return KeyStore(page_store, KeyHashing(pepper=PEPPER))


def made(keys: KeyStore, name: str = "claims-runner", **given: object) -> NewKey:
    return keys.create(name, Role.RUNNER, actor=SYSTEM, **given)  # type: ignore[arg-type]


def refusal(keys: KeyStore, given: str) -> KeyRefusedError:
    with pytest.raises(KeyRefusedError) as refused:
        keys.authenticate(given)
    return refused.value


class TestCreate:
    """Making keys."""

    def test_the_key_opens_what_it_was_made_for(self, keys: KeyStore) -> None:
        new = made(keys, environments=[Environment.PROD, Environment.DEV])
        found = keys.authenticate(new.text)
        assert (found.name, found.role) == ("claims-runner", Role.RUNNER)
        assert found.environments == (Environment.DEV, Environment.PROD)
        assert found.actor.name == f"key claims-runner ({new.key.key_id})"
        assert KEY_PATTERN.fullmatch(new.text)

    def test_every_environment_means_any(self, keys: KeyStore) -> None:
        assert made(keys, environments=list(Environment)).key.environments is None

    def test_the_secret_is_kept_nowhere(self, keys: KeyStore, page_store: SqlCheckpointStore) -> None:
        new = made(keys)
        keys.authenticate(new.text)
        secret = new.text.rpartition(f"re_{new.key.key_id}_")[2]
        with page_store.reading() as conn:
            tables = conn.execute(text("select name from sqlite_master where type = 'table'")).scalars().all()
            dump = [str(row) for table in tables for row in conn.execute(text(f'select * from "{table}"'))]
        assert any(new.key.key_id in line for line in dump)
        assert not any(secret in line for line in dump)

    def test_what_is_logged_of_a_key_is_masked(self) -> None:
        for _ in range(200):
            key_id, secret = new_key_text()
            assert secret[:16] not in mask_text(f"a message with re_{key_id}_{secret}: refused")
            assert secret[:16] not in mask_text(f"cut: re_{key_id}_{secret[:20]}", cut=True)
        assert mask_text("re_evaluate_claims_of_last_year_again") == "re_evaluate_claims_of_last_year_again"

    @pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb", "a\u202eb"])
    def test_names_can_be_read(self, keys: KeyStore, page_store: SqlCheckpointStore, name: str) -> None:
        with pytest.raises(KeyChangeError) as refused:
            made(keys, name)
        assert refused.value.field == "name"
        assert events(page_store, EventType.KEY_CREATED) == []

    def test_an_end_in_the_past_is_refused(self, keys: KeyStore) -> None:
        with pytest.raises(KeyChangeError, match="over already"):
            made(keys, expires_at=clock.utc_now() - timedelta(seconds=1))

    def test_keys_that_work_have_names_of_their_own(self, keys: KeyStore) -> None:
        first = made(keys)
        with pytest.raises(KeyChangeError, match=first.key.key_id):
            made(keys, "Claims-Runner")
        keys.revoke(first.key.key_id, actor=SYSTEM)
        assert made(keys).key.key_id != first.key.key_id

    def test_one_of_many_at_once_gets_the_name(self, keys: KeyStore) -> None:
        outcomes: list[str] = []

        def make() -> None:
            try:
                made(keys)
                outcomes.append("made")
            except KeyChangeError:
                outcomes.append("refused")

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(outcomes) == ["made"] + ["refused"] * 7

    def test_an_event_tells_it(self, keys: KeyStore, page_store: SqlCheckpointStore) -> None:
        new = made(keys, environments=[Environment.DEV])
        (event,) = events(page_store, EventType.KEY_CREATED)
        assert event.actor == "tests"
        assert event.payload == {
            "key_id": new.key.key_id,
            "name": "claims-runner",
            "role": "runner",
            "environments": ["dev"],
            "expires_at": None,
        }


class TestAuthenticate:
    """Using keys."""

    def test_costs_one_look_up(self, keys: KeyStore, statements: Statements) -> None:
        new = made(keys)
        keys.authenticate(new.text)
        statements.clear()
        for _ in range(5):
            keys.authenticate(new.text)
        assert len(statements) == 5
        assert all("api_keys.key_id = ?" in statement for statement in statements)

    def test_use_is_noted_once_a_minute(self, keys: KeyStore, fake_clock: FakeClock) -> None:
        new = made(keys)
        first = fake_clock.now
        keys.authenticate(new.text)
        fake_clock.forward(seconds=59)
        keys.authenticate(new.text)
        assert keys.list_keys()[0].last_used_at == first
        fake_clock.forward(seconds=1)
        keys.authenticate(new.text)
        assert keys.list_keys()[0].last_used_at == fake_clock.now

    @pytest.mark.parametrize(
        "given", ["", "re_", "re_abcdefgh_x", "x" * 55, "re_ABCDEFGH_" + "x" * 43, "ключ"]
    )
    def test_what_is_no_key(self, keys: KeyStore, statements: Statements, given: str) -> None:
        statements.clear()
        assert refusal(keys, given).reason == "malformed"
        assert statements == []

    def test_another_secret(self, keys: KeyStore) -> None:
        new = made(keys)
        for changed in ("A", "B"):
            given = new.text[:-1] + changed
            if given != new.text:
                assert refusal(keys, given).reason == "wrong secret"

    def test_nobody_s_id(self, keys: KeyStore) -> None:
        assert refusal(keys, "re_abcdefgh_" + "x" * 43).reason == "unknown"

    def test_an_end_comes(self, keys: KeyStore, fake_clock: FakeClock) -> None:
        new = made(keys, expires_at=fake_clock.now + timedelta(hours=1))
        fake_clock.forward(minutes=59, seconds=59)
        keys.authenticate(new.text)
        fake_clock.forward(seconds=1)
        assert refusal(keys, new.text).reason == "expired"

    def test_a_revocation_counts_from_the_next_request_on(
        self, keys: KeyStore, page_store: SqlCheckpointStore
    ) -> None:
        new = made(keys)
        other_process = KeyStore(page_store, KeyHashing(pepper=PEPPER))
        other_process.authenticate(new.text)
        assert keys.revoke(new.key.key_id, actor=SYSTEM)
        assert refusal(other_process, new.text).reason == "revoked"
        assert not keys.revoke(new.key.key_id, actor=SYSTEM)
        assert not keys.revoke("abcdefgh", actor=SYSTEM)
        (event,) = events(page_store, EventType.KEY_REVOKED)
        assert event.payload == {"key_id": new.key.key_id, "name": "claims-runner"}


class TestPepper:
    """Hashes are keyed with the server's secret."""

    def test_a_key_of_another_secret_is_told_apart(
        self, keys: KeyStore, page_store: SqlCheckpointStore
    ) -> None:
        new = made(keys)
        other = KeyStore(page_store, KeyHashing(pepper="another secret of this server"))
        refused = refusal(other, new.text)
        assert refused.reason == "foreign"
        assert "another SECRET_KEY" in str(refused)
        assert other.list_keys()[0].state(clock.utc_now()) is KeyState.FOREIGN
        assert keys.list_keys()[0].state(clock.utc_now()) is KeyState.LIVE

    def test_a_key_without_one_works_under_any(self, page_store: SqlCheckpointStore, keys: KeyStore) -> None:
        new = made(KeyStore(page_store, KeyHashing()))
        assert keys.authenticate(new.text).key_id == new.key.key_id

    def test_the_same_secret_hashes_differently(self) -> None:
        hashes = {KeyHashing(pepper=pepper).hash("s") for pepper in (None, PEPPER, "another")}
        assert len(hashes) == 3

    def test_the_row_holds_nothing_of_the_pepper(
        self, keys: KeyStore, page_store: SqlCheckpointStore
    ) -> None:
        made(keys)
        with page_store.reading() as conn:
            row = conn.execute(select(api_keys)).one()
        assert PEPPER not in str(row)


class TestRotate:
    """A successor, while the old key goes on for a while."""

    def test_both_work_until_the_old_one_ends(self, keys: KeyStore, fake_clock: FakeClock) -> None:
        old = made(keys, environments=[Environment.DEV])
        new = keys.rotate(old.key.key_id, actor=SYSTEM)
        assert (new.key.name, new.key.role, new.key.environments) == (
            "claims-runner",
            Role.RUNNER,
            (Environment.DEV,),
        )
        assert new.key.replaces == old.key.key_id
        assert keys.authenticate(old.text).state(fake_clock.now) is KeyState.ENDING
        keys.authenticate(new.text)
        fake_clock.forward(hours=GRACE.total_seconds() / 3600)
        assert refusal(keys, old.text).reason == "expired"
        keys.authenticate(new.text)

    def test_without_grace_it_ends_now(self, keys: KeyStore) -> None:
        old = made(keys)
        new = keys.rotate(old.key.key_id, actor=SYSTEM, grace=timedelta())
        assert refusal(keys, old.text).reason == "expired"
        keys.authenticate(new.text)

    def test_the_successor_is_valid_as_long(self, keys: KeyStore, fake_clock: FakeClock) -> None:
        old = made(keys, expires_at=fake_clock.now + timedelta(days=90))
        fake_clock.forward(days=89.5)
        new = keys.rotate(old.key.key_id, actor=SYSTEM)
        assert new.key.expires_at == fake_clock.now + timedelta(days=90)
        assert new.replaced is not None
        assert new.replaced.expires_at == old.key.expires_at  # not stretched by the grace

    def test_only_the_newest_is_rotated(self, keys: KeyStore) -> None:
        old = made(keys)
        new = keys.rotate(old.key.key_id, actor=SYSTEM)
        with pytest.raises(KeyChangeError, match=f"successor already: {new.key.key_id}"):
            keys.rotate(old.key.key_id, actor=SYSTEM)
        keys.rotate(new.key.key_id, actor=SYSTEM)

    @pytest.mark.parametrize("grace", [timedelta(seconds=-1), timedelta(days=31)])
    def test_a_grace_has_bounds(self, keys: KeyStore, grace: timedelta) -> None:
        with pytest.raises(KeyChangeError, match="30 more days"):
            keys.rotate(made(keys).key.key_id, actor=SYSTEM, grace=grace)

    def test_what_is_over_stays_over(self, keys: KeyStore) -> None:
        old = made(keys)
        keys.revoke(old.key.key_id, actor=SYSTEM)
        with pytest.raises(KeyChangeError, match="is over"):
            keys.rotate(old.key.key_id, actor=SYSTEM)
        with pytest.raises(KeyChangeError, match="no key"):
            keys.rotate("abcdefgh", actor=SYSTEM)

    def test_an_event_tells_both(self, keys: KeyStore, page_store: SqlCheckpointStore) -> None:
        old = made(keys)
        new = keys.rotate(old.key.key_id, actor=SYSTEM)
        (event,) = events(page_store, EventType.KEY_ROTATED)
        assert (event.payload["replaces"], event.payload["key_id"]) == (old.key.key_id, new.key.key_id)
