"""create_run: a new run and its first event."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from resume_engine.conformance.abilities import Ability, needs
from resume_engine.conformance.samples import (
    new_run,
    summary,
)
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.errors import InvalidValueError, RunExistsError
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment, Run, RunStatus
from resume_engine.core.store import CheckpointStore

OLGA = Actor(name="olga@example.com", role=Role.OPERATOR, channel=Channel.API)


class CreateRun:
    """A new run and its first event."""

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_run_is_read_as_it_was_written(self, store: CheckpointStore) -> None:
        moment = datetime(2026, 3, 1, 12, 0, 0, 987654, tzinfo=UTC)
        run = Run(
            run_id="run-1",
            workflow_name="billing",
            status=RunStatus.PENDING,
            created_at=moment,
            updated_at=moment,
            metadata={"customer": {"name": "Zoë", "tags": ["a", None, 1.5, True]}},
            environment=Environment.STAGING,
        )
        store.create_run(run)
        assert store.get_run("run-1") == run

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_time_of_another_zone_is_kept_as_the_same_moment(self, store: CheckpointStore) -> None:
        there = datetime(2026, 3, 1, 23, 30, tzinfo=timezone(timedelta(hours=-7)))
        assert new_run(store, created_at=there).created_at == there

    @needs(Ability.WRITES_AS_GIVEN)
    def test_who_started_a_run_is_recorded(self, store: CheckpointStore) -> None:
        store.create_run(Run(run_id="run-1", workflow_name="billing"), actor=OLGA)
        assert summary(store).started_by == "olga@example.com"
        [started] = store.list_events("run-1")
        assert (started.event_type, started.actor, started.role, started.channel) == (
            "run.started",
            "olga@example.com",
            "operator",
            "api",
        )
        assert started.payload == {"workflow_name": "billing", "environment": "dev"}

    def test_an_id_is_taken_once(self, store: CheckpointStore) -> None:
        new_run(store, workflow_name="billing")
        with pytest.raises(RunExistsError, match=r"run-1.*Resume it"):
            store.create_run(Run(run_id="run-1", workflow_name="other"))
        assert summary(store).workflow_name == "billing"
        assert len(store.list_events("run-1")) == 1

    def test_of_many_at_once_one_creates_the_run(self, store: CheckpointStore) -> None:
        def create(number: int) -> bool:
            try:
                store.create_run(Run(run_id="run-1", workflow_name=f"workflow {number}"))
            except RunExistsError:
                return False
            return True

        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(create, range(40))) == 1
        assert len(store.list_events("run-1")) == 1

    @pytest.mark.parametrize(
        "name", ["räksmörgås", "发票", "🧾" * 255, "a'b\"c;--", "<script>", " x ", "%_\\"]
    )
    def test_any_text_is_a_workflow_name(self, store: CheckpointStore, name: str) -> None:
        assert new_run(store, workflow_name=name).workflow_name == name

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("workflow_name", "x" * 256),
            ("workflow_name", "nul\x00"),
            ("workflow_name", "half \ud800"),
            ("workflow_name", ""),
            ("run_id", "x" * 37),
            ("run_id", "nul\x00"),
            ("run_id", ""),
            ("run_id", "/a"),
            ("run_id", "."),
            ("run_id", "a/../b"),
            ("run_id", "a/status"),
            ("run_id", "a/b/steps/7"),
        ],
    )
    def test_what_no_database_or_address_can_hold_is_named(
        self, store: CheckpointStore, field: str, value: str
    ) -> None:
        given: dict[str, Any] = {"run_id": "run-1", "workflow_name": "billing", field: value}
        with pytest.raises(InvalidValueError, match=f"^{field}: "):
            store.create_run(Run(**given))
        assert store.get_run("run-1") is None

    def test_metadata_that_is_not_json_is_refused(self, store: CheckpointStore) -> None:
        with pytest.raises(InvalidValueError, match=r"^metadata: "):
            store.create_run(Run(run_id="run-1", workflow_name="billing", metadata={"at": object()}))
        assert store.get_run("run-1") is None

    @needs(Ability.ANY_TEXT)
    def test_nul_and_half_characters_in_metadata_come_back(self, store: CheckpointStore) -> None:
        kept = {"nul": "a\x00b", "half": "\ud800", "long": "x" * 100_000}
        new_run(store, metadata=kept)
        found = store.get_run("run-1")
        assert found is not None and found.metadata == kept
