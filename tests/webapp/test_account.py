"""One's own account: password and sessions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from resume_engine.core.audit import EventType
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import PageClient, new_client
from tests.webapp.helpers import PASSWORD, events, give_password, session_id_of, sign_in_by_form, with_session
from webapp.accounts.browser_name import browser_name
from webapp.accounts.passwords import weakness
from webapp.accounts.records import Person, token_hash

SignIn = Callable[[str], PageClient]
People = dict[str, Person]
OTHER = "seven copper umbrellas"


class TestPassword:
    """`POST /account/password`."""

    def test_a_first_one_needs_no_current_one(
        self, app: Flask, sign_in: SignIn, page_store: SqlCheckpointStore
    ) -> None:
        ana = sign_in("ana")
        answer = ana.post("/account/password", data={"new": OTHER})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/account")
        assert "Your password is changed" in ana.get("/account").text
        (event,) = events(page_store, EventType.USER_PASSWORD_CHANGED)
        assert (event.actor, event.payload) == ("ana@example.org", {"email": "ana@example.org"})
        assert sign_in_by_form(new_client(app), "ana@example.org", OTHER).status_code == 303

    def test_a_change_needs_the_current_one(self, app: Flask, sign_in: SignIn, people: People) -> None:
        give_password(app, people["ana"])
        ana = sign_in("ana")
        assert ana.post("/account/password", data={"current": PASSWORD, "new": OTHER}).status_code == 303
        assert sign_in_by_form(new_client(app), "ana@example.org", PASSWORD).status_code == 422
        assert sign_in_by_form(new_client(app), "ana@example.org", OTHER).status_code == 303

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"new": OTHER}, "Type your current password."),
            ({"current": "not this one, surely", "new": OTHER}, "This is not your current password."),
            ({"current": PASSWORD}, "Type a new password."),
            ({"current": PASSWORD, "new": "fourteen chars"}, "at least 15 characters"),
            ({"current": PASSWORD, "new": "x" * 257}, "at most 256 characters"),
            ({"current": PASSWORD, "new": "password12345678"}, "first passwords that are guessed"),
            ({"current": PASSWORD, "new": "ana@example.org!!"}, "first passwords that are guessed"),
        ],
    )
    def test_invalid_input(
        self,
        app: Flask,
        sign_in: SignIn,
        people: People,
        page_store: SqlCheckpointStore,
        data: dict[str, str],
        message: str,
    ) -> None:
        give_password(app, people["ana"])
        before = len(events(page_store, EventType.USER_PASSWORD_CHANGED))
        answer = sign_in("ana").post("/account/password", data=data)
        assert answer.status_code == 422
        assert message in answer.text
        assert PASSWORD not in answer.text
        assert len(events(page_store, EventType.USER_PASSWORD_CHANGED)) == before
        assert sign_in_by_form(new_client(app), "ana@example.org", PASSWORD).status_code == 303

    def test_guessing_the_current_one_is_slowed_down(
        self, app: Flask, sign_in: SignIn, people: People, page_store: SqlCheckpointStore
    ) -> None:
        give_password(app, people["ana"])
        ana = sign_in("ana")
        for _ in range(5):
            ana.post("/account/password", data={"current": "guess", "new": OTHER})
        answer = ana.post("/account/password", data={"current": PASSWORD, "new": OTHER})
        assert answer.status_code == 422
        assert "Too many attempts" in answer.text
        assert len(events(page_store, EventType.AUTH_CONFIRM_FAILED)) == 5

    def test_the_same_request_again(self, app: Flask, sign_in: SignIn, people: People) -> None:
        """Sent twice by the old page, it is refused: its session is over."""
        give_password(app, people["ana"])
        ana = sign_in("ana")
        copy = with_session(app, session_id_of(ana))
        token = ana.csrf
        data = {"current": PASSWORD, "new": OTHER}
        assert ana.post("/account/password", data=data).status_code == 303
        assert copy.post("/account/password", data=data, token=token).headers["Location"].startswith("/login")

    def test_wrong_method(self, sign_in: SignIn) -> None:
        assert sign_in("ana").get("/account/password").status_code == 405

    def test_everybody_may(self, sign_in: SignIn) -> None:
        for name in ("alice", "ana", "otto"):
            assert sign_in(name).post("/account/password", data={"new": OTHER}).status_code == 303


class TestSessions:
    """The list of browsers."""

    def test_it_shows_where_one_is_signed_in(self, app: Flask, sign_in: SignIn, people: People) -> None:
        give_password(app, people["ana"])
        agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0 <script>"
        sign_in_by_form(new_client(app), "ana@example.org", headers={"User-Agent": agent})
        page = sign_in("ana").get("/account").text
        assert "This browser" in page
        assert "Firefox on Linux" in page
        assert "127.0.0.1" in page
        assert "<script>" not in page.split("</head>")[1]

    def test_one_is_ended(self, sign_in: SignIn, page_store: SqlCheckpointStore) -> None:
        ana, phone = sign_in("ana"), sign_in("ana")
        reference = token_hash(session_id_of(phone))[:16]
        assert f"/account/sessions/{reference}/end" in ana.get("/account").text
        assert ana.post(f"/account/sessions/{reference}/end").headers["Location"] == "/account"
        assert phone.get("/account").status_code == 303
        assert ana.get("/account").status_code == 200
        (event,) = events(page_store, EventType.AUTH_SESSIONS_ENDED)
        assert event.payload == {"email": "ana@example.org", "sessions": 1}

    def test_ended_again_changes_nothing(self, sign_in: SignIn, page_store: SqlCheckpointStore) -> None:
        ana, phone = sign_in("ana"), sign_in("ana")
        address = f"/account/sessions/{token_hash(session_id_of(phone))[:16]}/end"
        ana.post(address)
        assert ana.post(address).status_code == 303
        assert "Nothing was changed" in ana.get("/account").text
        assert len(events(page_store, EventType.AUTH_SESSIONS_ENDED)) == 1

    def test_somebody_else_s_is_out_of_reach(self, sign_in: SignIn, page_store: SqlCheckpointStore) -> None:
        oscar = sign_in("oscar")
        reference = token_hash(session_id_of(oscar))[:16]
        sign_in("ana").post(f"/account/sessions/{reference}/end")
        assert oscar.get("/account").status_code == 200
        assert events(page_store, EventType.AUTH_SESSIONS_ENDED) == []

    def test_the_beginning_of_a_reference_is_none(self, sign_in: SignIn) -> None:
        ana, phone = sign_in("ana"), sign_in("ana")
        reference = token_hash(session_id_of(phone))[:16]
        for part in (reference[:1], reference[:15], reference + "0"):
            ana.post(f"/account/sessions/{part}/end")
            assert phone.get("/account").status_code == 200

    @pytest.mark.parametrize("reference", ["%25", "_", "0", "%5C"])
    def test_a_pattern_is_no_reference(self, sign_in: SignIn, reference: str) -> None:
        ana, phone = sign_in("ana"), sign_in("ana")
        ana.post(f"/account/sessions/{reference}/end")
        assert phone.get("/account").status_code == 200
        assert ana.get("/account").status_code == 200

    def test_the_own_one_signs_out(self, sign_in: SignIn) -> None:
        ana = sign_in("ana")
        reference = token_hash(session_id_of(ana))[:16]
        assert ana.post(f"/account/sessions/{reference}/end").headers["Location"] == "/login"
        assert ana.get("/account").status_code == 303

    def test_everywhere(self, sign_in: SignIn, page_store: SqlCheckpointStore) -> None:
        ana, phone = sign_in("ana"), sign_in("ana")
        answer = ana.post("/account/sessions/end-all")
        assert answer.headers["Location"] == "/login"
        assert "signed out everywhere" in ana.get("/login").text
        assert phone.get("/account").status_code == 303
        (event,) = events(page_store, EventType.AUTH_SESSIONS_ENDED)
        assert event.payload["sessions"] == 2

    def test_wrong_method(self, sign_in: SignIn) -> None:
        ana = sign_in("ana")
        assert ana.get("/account/sessions/end-all").status_code == 405
        assert ana.get("/account/sessions/x/end").status_code == 405


@pytest.mark.parametrize(
    ("password", "accepted"),
    [
        ("quiet harbour lantern", True),
        ("тихая гавань фонарь", True),
        ("静かな港の灯台と霧の中の古い船", True),
        ("my password is not here", True),
        ("x7!kQ2#vL9@pW4$z", True),
        ("a" * 20, False),
        ("abababababababababab", False),
        ("orchestrateos123", False),
        ("OrchestrateOS Dashboard!", False),
        ("passwordpassword", False),
        ("P a s s w o r d 1 2 3 4 5 6 7 8", False),
        ("correct horse battery staple", False),
        ("123456789012345", False),
        ("qwertyuiopasdfgh", False),
        ("short", False),
    ],
)
def test_what_is_a_password(password: str, accepted: bool) -> None:
    assert (weakness(password) is None) is accepted, weakness(password)


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1",
            "Safari on iPhone",
        ),
        ("Mozilla/5.0 (Linux; Android 15) Chrome/140.0 Mobile Safari/537.36", "Chrome on Android"),
        ("curl/8.0", "another browser"),
        (None, "another browser"),
    ],
)
def test_browsers_have_names(agent: str | None, name: str) -> None:
    assert browser_name(agent) == name
