"""A failed run, people who decide about it, and the rules they decide under."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import insert

from resume_engine.core import clock
from resume_engine.core.actor import Actor, Channel, key_actor_name
from resume_engine.core.decisions import DecisionKind, DecisionRequest
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.permissions import Role
from resume_engine.core.policy import Policy
from resume_engine.core.policy_file import parse_policy
from resume_engine.core.run import Environment
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.schema import api_keys
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import change, failed, new_run

APPROVE, ACK = DecisionKind.HUMAN_APPROVAL, DecisionKind.PROD_RESUME_ACK
REJECT, COMPENSATE = DecisionKind.REJECT, DecisionKind.COMPENSATION
ANA, BOB, CEM = (
    Actor(name=name, role=Role.OPERATOR, channel=Channel.DASHBOARD) for name in ("ana", "bob", "cem")
)


def rule(text: str) -> Policy:
    return parse_policy(f'[[rule]]\nname = "the rule"\n{text}', "policy.toml")


TWO = rule("approvers = 2")
HOUR = rule('expires_after = "1h"')


def wanted(kind: DecisionKind = APPROVE, actor: Actor = ANA, **fields: object) -> DecisionRequest:
    made = DecisionRequest(run_id="run-1", kind=kind, actor=actor, note="why" if kind is REJECT else None)
    return replace(made, **fields)


def blocked(
    store: SqlCheckpointStore,
    classification: FailureClassification = FailureClassification.PERMANENT,
    environment: Environment = Environment.DEV,
) -> None:
    store.commit(change(new_run(store, environment=environment), failed(0, classification)))


def compensated(store: SqlCheckpointStore, policy: Policy) -> tuple[ResumeEngine, list[str]]:
    blocked(store, FailureClassification.PARTIAL)
    return ResumeEngine(store, policy=policy), []


def kinds_of_events(store: SqlCheckpointStore) -> list[str]:
    return [found.event_type for found in store.list_events("run-1")]


def key_of(store: SqlCheckpointStore, key_id: str, created_by: str) -> Actor:
    with store.writing() as conn:
        conn.execute(
            insert(api_keys).values(
                key_id=key_id,
                name="ci",
                role="operator",
                secret_hash="0" * 64,
                pepper_id="none",
                created_at=clock.utc_now(),
                created_by=created_by,
            )
        )
    return Actor(name=key_actor_name("ci", key_id), role=Role.OPERATOR, channel=Channel.API)


def done(_: dict[str, object], __: str) -> dict[str, object]:
    return {"done": 1}
