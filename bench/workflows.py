"""The workflows, failures and people that the benchmark's runs are made of."""

from __future__ import annotations

import random
from dataclasses import dataclass

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from resume_engine.core.step_record import FailureClassification


@dataclass(frozen=True)
class Workflow:
    """Name a workflow, its steps and how often it runs compared with the others."""

    name: str
    steps: tuple[str, ...]
    weight: float


def _steps(words: str, repeat: int = 1) -> tuple[str, ...]:
    names = words.split()
    return tuple(f"{name}_{turn}" if repeat > 1 else name for turn in range(1, repeat + 1) for name in names)


WORKFLOWS = (
    Workflow(
        "claims.settlement", _steps("intake policy coverage fraud reserve offer sign pay notify file"), 18
    ),
    Workflow("claims.triage", _steps("read classify score route"), 12),
    Workflow("billing.invoice", _steps("collect rate tax total render post send"), 16),
    Workflow("billing.dunning", _steps("select remind wait escalate"), 5),
    Workflow("billing.refund", _steps("verify limit reverse notify book"), 5),
    Workflow(
        "content.publish", _steps("draft check facts legal images layout approve upload index announce"), 9
    ),
    Workflow("content.translate", _steps("split translate check join", 5), 6),
    Workflow("data_sync.crm", _steps("fetch map diff write", 4), 11),
    Workflow("data_sync.warehouse", _steps("extract clean load verify", 6), 8),
    Workflow(
        "onboarding.customer", _steps("identity screening contract account welcome training review close"), 6
    ),
    Workflow("reporting.month_end", _steps("pull reconcile adjust post", 9), 3),
    Workflow("support.agent_answer", _steps("read search draft critique revise send"), 9),
)
"""Twelve workflows of 4 to 36 steps, about ten on average."""

BACKFILL = WORKFLOWS[8].name
"""The workflow whose long runs have 1,000 and 10,000 steps."""

ENVIRONMENTS = ((Environment.PROD, 55), (Environment.STAGING, 25), (Environment.DEV, 20))

EXECUTORS = tuple(f"runner-{number}:{4100 + 37 * number}:{number * 7919:06x}" for number in range(1, 7))

PEOPLE = tuple(
    Actor(name=f"{name}@example.com", role=role, channel=Channel.DASHBOARD)
    for name, role in (
        ("ada.okafor", Role.OPERATOR),
        ("bruno.keller", Role.OPERATOR),
        ("chen.li", Role.OPERATOR),
        ("dana.weiss", Role.OPERATOR),
        ("elif.demir", Role.ADMIN),
        ("farid.nasser", Role.OPERATOR),
    )
)

_CAUSES: dict[FailureClassification, tuple[tuple[type[Exception], str], ...]] = {
    FailureClassification.TRANSIENT: (
        (TransientStepError, "Model endpoint answered 529: overloaded, try again later"),
        (ConnectionError, "Connection to the ledger service was reset by peer"),
        (TimeoutError, "No answer from the document store within 30 s"),
        (OSError, "Temporary failure in name resolution"),
    ),
    FailureClassification.PERMANENT: (
        (PermanentStepError, "Policy 4711-B does not cover this kind of damage"),
        (ValueError, "Amount must be positive, found -120.00"),
        (KeyError, "customer_reference"),
        (PermissionError, "The service account may not post to a closed period"),
        (TypeError, "unsupported operand type(s) for +: 'int' and 'str'"),
    ),
    FailureClassification.PARTIAL: (
        (PartialStepError, "Payment was captured, but the booking was not confirmed"),
        (PartialStepError, "3 of 5 records were written before the target refused the fourth"),
        (PartialStepError, "The letter was sent; the copy for the file could not be stored"),
    ),
}


def failure(classification: FailureClassification, rng: random.Random) -> Exception:
    """Return one of the believable failures of a class."""
    kind, message = rng.choice(_CAUSES[classification])
    return kind(message)
