"""The store over HTTP under the same tests as the others, and what of them cannot be over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from resume_engine.core.permissions import Role
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import CHEAP
from webapp import Settings, create_app

KEY = "key-of-the-store-tests"
SQL = ("codec", "engine", "engines", "reading", "writing", "asking", "upgrade_schema", "load_metadata")


class StoreOverHttp(RemoteCheckpointStore):
    """A remote store whose control plane is an application in this process."""

    def __init__(self, behind: SqlCheckpointStore) -> None:
        settings = Settings(password_cost=CHEAP, api_keys={KEY: Role.OPERATOR}, api_rate_limit=None)
        self.behind = behind
        application = create_app(settings, store=behind)
        super().__init__(
            "http://localhost/api",
            api_key=KEY,
            retry_seconds=5,
            transport=httpx.WSGITransport(application, raise_app_exceptions=False),
        )

    def __getattr__(self, name: str) -> Any:
        if name in SQL:
            pytest.skip(f"over HTTP a store has no `{name}`: the database is the control plane's")
        raise AttributeError(name)


STARTS = "over HTTP a run is started running, at the control plane's own time and in the name of the key"
COMPUTES = "over HTTP the control plane computes what follows from a record; a runner does not say it"
DECIDES = "over HTTP the control plane makes decisions and audit events, in the name of the key"
STRICT = "the JSON API takes no NUL and no half characters outside of the payloads of steps"
GATES = "over HTTP a closed gate takes no further record, not even from who writes records by hand"
WORKER = "over HTTP the executor that holds the run, or else the key, is recorded as the worker"
KEYS = "over HTTP the control plane checks hash and key of a record before it looks for another one"

# Test -> why it does not run over HTTP. What is not listed runs.
NOT_OVER_HTTP: dict[str, str] = {
    "test_a_finished_run_takes_nothing": STARTS,
    "test_a_change_of_everything_is_read_back": COMPUTES,
    "test_the_key_is_unique_over_runs": KEYS,
    "test_failed_attempts_share_the_key_of_the_completed_one": GATES,
    "test_a_taken_sequence_is_a_stale_view": COMPUTES,
    "test_a_failure_event_is_decided_once_per_kind": DECIDES,
    "test_other_violations_are_not_renamed": DECIDES,
    "test_a_run_is_read_as_it_was_written": STARTS,
    "test_a_time_of_another_zone_is_kept_as_the_same_moment": STARTS,
    "test_who_started_a_run_is_recorded": STARTS,
    "test_nul_and_half_characters_in_metadata_come_back": STRICT,
    "test_a_decision_is_a_row_and_an_event_and_opens_the_gate": DECIDES,
    "test_of_fifty_deciding_at_once_the_first_wins": DECIDES,
    "test_a_refusal_is_an_event_and_changes_nothing_else": DECIDES,
    "test_other_states_are_left_alone": STARTS,
    "test_decisions_are_seen_in_the_metadata": DECIDES,
    "test_the_gates_of_two_branches_are_opened_one_after_the_other": GATES,
    "test_one_record_by_its_sequence": GATES,
    "test_the_completed_record_has_the_key": GATES,
    "test_a_record_of_an_0_2_0_replay_counts_as_completed": STARTS,
    "test_status_and_metadata_are_written": STARTS,
    "test_a_plain_step_writes_the_rows_that_any_change_writes": KEYS,
    "test_a_page_that_is_out_of_date_decides_nothing": DECIDES,
    "test_a_decision_after_the_run_went_on_is_refused": DECIDES,
    "test_records_come_in_order_with_every_field": WORKER,
    "test_a_run_is_read_at_one_moment": "over HTTP a run is read in one call: the test looks at the tables",
    "test_decisions_cannot_be_written_as_metadata": DECIDES,
}
OVER_HTTP = (
    "test_append_step",
    "test_commit",
    "test_create_run",
    "test_decide",
    "test_find_resumable",
    "test_get_run",
    "test_read_steps",
    "test_renew_lease",
    "test_roll_back",
    "test_update_run",
)
"""The modules of the verbs that a runner needs; the others are about a database."""
# Over HTTP the second database shows little that the first one does not.
HTTP_POSTGRES = ("test_append_step", "test_renew_lease", "test_roll_back")


def kinds_for(module: str, kinds: Sequence[str]) -> list[str]:
    """Return the kinds of stores that the tests of a module run on."""
    name = module.rpartition(".")[2]
    left_out = {"http_sqlite": name not in OVER_HTTP, "http_postgres": name not in HTTP_POSTGRES}
    return [kind for kind in kinds if not left_out.get(kind, False)]


def skip_reason(test: str) -> str | None:
    """Return why a test is left out over HTTP, None when it is not."""
    return NOT_OVER_HTTP.get(test)
