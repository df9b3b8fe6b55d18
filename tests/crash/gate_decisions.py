"""What people do to the run of a case: they look, decide, undo and reject, allowed to or not."""

from __future__ import annotations

from typing import Any

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.errors import DecisionError
from resume_engine.core.permissions import Role
from tests.crash.gate_case import STARTER, Case
from tests.crash.gate_oracle import ACKNOWLEDGED, APPROVAL, COMPENSATION, EVENT_OF_KIND, KINDS
from tests.crash.gate_steps import compensation_of, workflow_of

PEOPLE = ("ana", "Ana ", "bob", "cem", "dia")
TRUSTED = ("olga", "otto", "omar")  # they have nothing to do with the run, and decide in the end
WORD_OF_KIND = {APPROVAL: "approve", COMPENSATION: "compensate", ACKNOWLEDGED: "ack_prod_resume"}
FORGED_NAME = {
    APPROVAL: {"approved_by": "mallory"},
    COMPENSATION: {},
    ACKNOWLEDGED: {"acknowledged_by": "mallory"},
}


def look_at_blockers(case: Case) -> None:
    """Ask what the run waits for."""
    blockers = case.engine().get_resume_blockers(case.run_id)
    if case.oracle.finished is None and case.oracle.is_closed():
        assert blockers, f"a closed gate is not told\n{case.tale()}"


# Who may


def decide(case: Case) -> None:
    """Decide what is missing, whoever it is that decides."""
    wanted = _wanted(case)
    if wanted is not None:
        key = wanted[1] if case.chance.random() < 0.7 else None
        _decide(case, wanted[0], _actor(case), key)


def decide_all(case: Case) -> None:
    """Let people who may decide everything that is missing."""
    for _ in range(8):
        wanted = _wanted(case)
        if wanted is None:
            return
        _decide_as_trusted(case, *wanted)


def _decide_as_trusted(case: Case, kind: str, key: str) -> None:
    for name in TRUSTED[: case.oracle.asked(kind).approvers]:
        actor = Actor(name=name, role=Role.ADMIN, channel=Channel.DASHBOARD)
        try:
            _decide(case, kind, actor, key, note="looked at it")
        except DecisionError as refused:
            case.counts.refusals[type(refused).__name__] += 1


# Who may not, or about something else


def decide_about_another_gate(case: Case) -> None:
    """Decide anything, whether it is missing or not."""
    _decide(case, case.chance.choice(KINDS), _actor(case), None)


def decide_in_the_wrong_role(case: Case) -> None:
    """Decide in a role that decides nothing."""
    wanted = _wanted(case)
    if wanted is None:
        return
    actor = Actor(name="ron", role=case.chance.choice([Role.AUDITOR, Role.RUNNER]))
    _decide(case, wanted[0], actor, wanted[1])
    raise AssertionError(f"{actor} decided\n{case.tale()}")


def decide_as_who_started(case: Case) -> None:
    """Decide as the one who started the run, with the name written in another way."""
    wanted = _wanted(case)
    if wanted is not None:
        actor = Actor(name=f" {STARTER.title()}", role=Role.ADMIN, channel=Channel.DASHBOARD)
        _decide(case, wanted[0], actor, wanted[1])


def decide_about_an_old_failure(case: Case) -> None:
    """Decide about a failure that is behind the run already."""
    wanted = _wanted(case)
    if wanted is None or not case.oracle.old_keys:
        return
    _decide(case, wanted[0], _actor(case), case.chance.choice(case.oracle.old_keys))


# Other ways to decide


def decide_by_a_library_call(case: Case) -> None:
    """Decide as a program does that holds the engine."""
    engine, note = case.engine(), _note(case)
    wanted = _wanted(case)
    kind = wanted[0] if wanted is not None else case.chance.choice(KINDS)
    if kind == APPROVAL:
        engine.grant_human_approval(case.run_id, "bob", note=note)
    elif kind == ACKNOWLEDGED:
        engine.ack_prod_resume(case.run_id, "cem", note=note)
    else:
        engine.record_compensation(case.run_id, result={"refund": 1}, note=note)


def decide_over_http(case: Case) -> None:
    """Decide with somebody's key, as somebody else, and about what may be outdated."""
    wanted = _wanted(case)
    if wanted is None:
        return
    kind, key = wanted
    name = case.chance.choice(list(case.ground.keys))
    note, headers = _note(case), {}
    body = FORGED_NAME[kind] | ({} if note is None else {"note": note})
    outdated = case.chance.random() < 0.2
    if outdated:
        headers = {"If-Match": '"0-0"'}
    elif case.chance.random() < 0.5:
        key = case.chance.choice([key, *case.oracle.old_keys])
        body["failure_key"] = key
    status = _post(case, name, kind, body, headers)
    assert not (outdated and status == 200), "a decision on an outdated version"
    if status == 200 and key in case.oracle.old_keys:
        case.oracle.damage.append(f"a decision about {key} was accepted")


def _post(case: Case, name: str, kind: str, body: dict[str, Any], headers: dict[str, str]) -> int:
    path = f"/runs/{case.run_id}/{WORD_OF_KIND[kind]}"
    answer = case.ground.keys[name].post(path, json=body, headers=headers)
    case.told.append(f"  key of {name}: {kind} {body} {headers} -> {answer.status_code}")
    assert answer.status_code in (200, 400, 403, 409, 412, 422), answer.text
    case.counts.refusals[f"HTTP {answer.status_code}"] += 1
    return answer.status_code


# Other things to do


def compensate(case: Case) -> None:
    """Undo what failed, as its step says or by a function of one's own."""
    engine = case.remote if case.chance.random() < 0.2 else case.engine()
    blockers = case.engines[0].get_resume_blockers(case.run_id)
    index = next((b.step_index for b in blockers if b.required_action == COMPENSATION), 0)
    note = _note(case)
    if case.chance.random() < 0.5:
        engine.execute_compensation(case.run_id, steps=workflow_of(case), note=note)
    else:
        case.steps[index].undone = case.steps[index].undone or []
        engine.execute_compensation(case.run_id, compensation_of(case, index), note=note)


def reject(case: Case) -> None:
    """End the run."""
    case.engine().reject_run(case.run_id, "otto", note="enough of it")


# What is decided, by whom, with which note


def _wanted(case: Case) -> tuple[str, str] | None:
    """Return kind and failure key of a decision that is missing, as the engine tells people."""
    blockers = case.engines[0].get_resume_blockers(case.run_id)
    if not blockers:
        return None
    blocker = case.chance.choice(blockers)
    return blocker.required_action, blocker.failure_key


def _actor(case: Case) -> Actor:
    return Actor(
        name=case.chance.choice(PEOPLE),
        role=case.chance.choice([Role.OPERATOR, Role.OPERATOR, Role.ADMIN, Role.ADMIN]),
        channel=case.chance.choice([Channel.DASHBOARD, Channel.CLI, Channel.API]),
    )


def _note(case: Case) -> str | None:
    return case.chance.choice([None, " ", "looked at it", "looked at it", "looked at it"])


def _decide(case: Case, kind: str, actor: Actor, key: str | None, note: str | None = None) -> None:
    note = note or _note(case)
    case.told.append(f"  {actor.name} ({actor.role}) decides {kind} about {key}, note {note!r}")
    decision = case.engine().decide(case.run_id, kind, actor, failure_key=key, note=note)
    [made] = [e for e in case.oracle.looks() if e.event_type == EVENT_OF_KIND[kind]]
    case.counts.events[made.event_type] += 1
    assert made.failure_key == decision.failure_key
    if key is not None and made.failure_key != key:
        case.oracle.damage.append(f"a decision about {key} counts for {made.failure_key}")
