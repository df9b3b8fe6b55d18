"""All cases in one class, to be subclassed with a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest

from resume_engine.conformance.abilities import Ability
from resume_engine.conformance.append_step import AppendStep
from resume_engine.conformance.commit import Commit
from resume_engine.conformance.create_run import CreateRun
from resume_engine.conformance.decide import Decide
from resume_engine.conformance.find_resumable import FindResumable
from resume_engine.conformance.get_run import GetRun
from resume_engine.conformance.read_steps import ReadSteps
from resume_engine.conformance.renew_lease import RenewLease
from resume_engine.conformance.roll_back import RollBack
from resume_engine.conformance.update_run import UpdateRun
from resume_engine.core.store import CheckpointStore


class StoreConformance(
    CreateRun,
    GetRun,
    UpdateRun,
    AppendStep,
    ReadSteps,
    Commit,
    Decide,
    RenewLease,
    FindResumable,
    RollBack,
):
    """Subclass it as `Test...`, and override the fixture `store` to yield an empty store.

    `lacks` tells what the store cannot do, and why; the cases that need it are skipped with that reason.
    """

    lacks: ClassVar[Mapping[Ability, str]] = {}

    @pytest.fixture
    def store(self) -> CheckpointStore:
        """An empty store; whoever subclasses gives it."""
        raise NotImplementedError("give the subclass a fixture `store` that yields an empty store")

    @pytest.fixture(autouse=True)
    def _skip_what_the_store_lacks(self, request: pytest.FixtureRequest) -> None:
        needed: Ability | None = getattr(request.function, "needed_ability", None)
        if needed is not None and needed in self.lacks:
            pytest.skip(f"{self.lacks[needed]} (needed: {needed})")
