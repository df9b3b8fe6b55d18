"""What happened in the past week: a few hundred ordinary runs, and those that wait for somebody now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import NamedTuple

from resume_engine import FailureClassification, classify_failure
from webapp.demo.run_ids import DEMO_RUN_IDS
from webapp.demo.stories import MAX_ATTEMPTS, Ending, Story, Trouble
from webapp.demo.workflows import (
    BILLING,
    CLAIMS,
    CONTENT,
    CRM,
    DOCUMENTS,
    MONTH_END,
    ONBOARDING,
    SUPPORT,
    WAREHOUSE,
    DemoWorkflow,
)
from webapp.demo.workflows.definition import Fault

ORDINARY_RUNS = 270
LAST_DAY_SHARE = 0.35

STEADY = {"rehearsal": True}
"""Marks the three fixed runs: once decided, nothing else goes wrong in them."""

ENVIRONMENTS = ("prod", "prod", "prod", "prod", "staging", "staging", "dev", "dev", "dev")
SHARES = (
    (CLAIMS, 5),
    (CONTENT, 4),
    (BILLING, 2),
    (CRM, 1),
    (DOCUMENTS, 3),
    (ONBOARDING, 4),
    (WAREHOUSE, 1),
    (SUPPORT, 6),
)
HOUR_WEIGHTS = [1] * 6 + [2, 4, 6, 6, 6, 5, 4, 5, 6, 6, 5, 4, 3, 2, 2, 1, 1, 1]


class Planned(NamedTuple):
    """A story and the moment it begins."""

    at: datetime
    story: Story


class Waiting(NamedTuple):
    """A run that still needs somebody: which step failed how, where, how many minutes ago it began."""

    workflow: DemoWorkflow
    step: str
    classification: str
    environment: str
    minutes_ago: float
    ending: Ending = Ending.OPEN
    failures: int = 1
    minutes_to_decide: float = 5
    run_id: str | None = None


WAITING = (
    Waiting(BILLING, "charge_cards", "transient", "prod", 47, run_id=DEMO_RUN_IDS[0]),
    Waiting(CLAIMS, "notify_claimant", "partial", "staging", 71, run_id=DEMO_RUN_IDS[1]),
    Waiting(CONTENT, "publish_article", "permanent", "staging", 93, run_id=DEMO_RUN_IDS[2]),
    Waiting(CLAIMS, "check_coverage", "permanent", "prod", 194),
    Waiting(ONBOARDING, "screen_sanctions", "permanent", "prod", 14),
    Waiting(CRM, "sync_accounts_06", "permanent", "staging", 26 * 60),
    Waiting(WAREHOUSE, "load_tickets", "permanent", "prod", 7 * 60, Ending.HALF_DECIDED),
    Waiting(DOCUMENTS, "send_for_signature", "partial", "prod", 31),
    Waiting(SUPPORT, "draft_reply", "permanent", "dev", 5 * 60),
    Waiting(BILLING, "mail_receipts", "partial", "prod", 3 * 60, Ending.HALF_DECIDED, minutes_to_decide=25),
    Waiting(CRM, "write_warehouse", "transient", "prod", 22),
    Waiting(CLAIMS, "read_documents", "transient", "prod", 5),
    Waiting(ONBOARDING, "open_account", "partial", "staging", 9 * 60),
    # Transient, and tried until the worker gave up: no gate, but nobody comes back to it by itself.
    Waiting(CONTENT, "research_sources", "transient", "dev", 50, failures=MAX_ATTEMPTS),
    Waiting(CRM, "open_snapshot", "transient", "staging", 3 * 60, failures=MAX_ATTEMPTS),
    Waiting(WAREHOUSE, "extract_orders", "transient", "dev", 30 * 60, failures=MAX_ATTEMPTS),
    # Cleared, but the runner of this workflow is another team's.
    Waiting(MONTH_END, "revalue_currencies", "permanent", "prod", 100, Ending.CLEARED),
    Waiting(MONTH_END, "revalue_currencies", "permanent", "staging", 20, Ending.CLEARED),
    # The process was killed in the middle of the step.
    Waiting(BILLING, "charge_cards", "transient", "prod", 65, Ending.DIED),
    Waiting(CONTENT, "draft_article", "transient", "dev", 11 * 60, Ending.DIED),
    Waiting(WAREHOUSE, "load_orders", "permanent", "staging", 31 * 60, Ending.DIED),
    # Rejected, for good.
    Waiting(CLAIMS, "validate_policy", "permanent", "prod", 140, Ending.REJECTED, minutes_to_decide=18),
    Waiting(BILLING, "post_to_ledger", "permanent", "staging", 22 * 60, Ending.REJECTED),
    Waiting(DOCUMENTS, "fetch_document", "permanent", "prod", 40 * 60, Ending.REJECTED, minutes_to_decide=55),
    Waiting(SUPPORT, "send_reply", "partial", "dev", 52 * 60, Ending.REJECTED),
)


def plan_week(seed: int, end: datetime, *, ordinary_runs: int = ORDINARY_RUNS) -> list[Planned]:
    """Return the stories of the seven days before `end`; the same for the same seed and end."""
    rng = Random(seed)
    ordinary = [Planned(at, ordinary_story(rng)) for at in _moments(rng, end, ordinary_runs)]
    return sorted([*ordinary, *_waiting(rng, end)], key=lambda planned: planned.at)


def _moments(rng: Random, end: datetime, count: int) -> Iterator[datetime]:
    """Yield moments of the past week, more by day than by night and more in the last 24 hours."""
    for _ in range(count):
        if rng.random() < LAST_DAY_SHARE:
            yield end - timedelta(minutes=rng.uniform(15, 24 * 60))
            continue
        day = end - timedelta(days=rng.randrange(1, 7))
        hour = rng.choices(range(24), HOUR_WEIGHTS)[0]
        yield day.replace(hour=hour, minute=rng.randrange(60), second=rng.randrange(60), microsecond=0)


def _waiting(rng: Random, end: datetime) -> Iterator[Planned]:
    for entry in WAITING:
        fault = fault_of_class(entry.workflow, entry.step, entry.classification)
        story = Story(
            workflow=entry.workflow,
            environment=entry.environment,
            seed=rng.getrandbits(64),
            trouble=Trouble(step=entry.step, fault=fault, failures=entry.failures, ending=entry.ending),
            minutes_to_decide=entry.minutes_to_decide,
            run_id=entry.run_id,
            marks=STEADY if entry.run_id else {},
        )
        yield Planned(end - timedelta(minutes=entry.minutes_ago), story)


def pick_workflow(rng: Random) -> DemoWorkflow:
    """Return a workflow, the frequent ones more often."""
    workflows, shares = zip(*SHARES, strict=True)
    return rng.choices(workflows, shares)[0]


def ordinary_story(rng: Random) -> Story:
    """Return a run as most are: nothing goes wrong, or one step fails and is dealt with."""
    workflow = pick_workflow(rng)
    luck = rng.random()
    trouble = None
    if luck < 0.12:
        trouble = _trouble(rng, workflow, "transient", failures=rng.choice([1, 1, 1, 2, 3]))
    elif luck < 0.17:
        trouble = _trouble(rng, workflow, "permanent", failures=rng.choice([1, 1, 1, 2]))
    elif luck < 0.21:
        trouble = _trouble(rng, workflow, "partial")
    return Story(
        workflow=workflow,
        environment=rng.choice(ENVIRONMENTS),
        seed=rng.getrandbits(64),
        trouble=trouble,
        minutes_to_decide=rng.choice([2, 4, 6, 11, 19, 35, 75]),
    )


def _trouble(
    rng: Random, workflow: DemoWorkflow, classification: str, *, failures: int = 1
) -> Trouble | None:
    found = [
        (part.name, fault)
        for part in workflow.steps
        for fault in part.faults
        if class_of(fault) == classification
    ]
    if not found:
        return None
    name, fault = rng.choice(found)
    return Trouble(step=name, fault=fault, failures=failures)


def class_of(fault: Fault) -> FailureClassification:
    """Return the class the engine gives to a fault."""
    return classify_failure(fault.exception())[0]


def fault_of_class(workflow: DemoWorkflow, step: str, classification: str) -> Fault:
    """Return the first fault of a step in a class."""
    return next(fault for fault in workflow.step(step).faults if class_of(fault) == classification)
