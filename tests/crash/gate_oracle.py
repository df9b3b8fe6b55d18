"""What must be decided before a run may go on, in words of the contract and apart from the engine.

The oracle sees what steps do outside, in order, and reads decisions from the audit events that the store
gives back. It looks at no row of a run: which failures are open follows from what the steps did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from resume_engine.core.audit import AuditEvent
from resume_engine.core.idempotency import hash_input

APPROVAL, COMPENSATION, ACKNOWLEDGED = "human_approval", "compensation", "prod_resume_ack"
KINDS = (APPROVAL, COMPENSATION, ACKNOWLEDGED)
EVENT_OF_KIND = {
    APPROVAL: "gate.approved",
    COMPENSATION: "gate.compensated",
    ACKNOWLEDGED: "gate.prod_resume_ack",
}
KIND_OF_EVENT = {event: kind for kind, event in EVENT_OF_KIND.items()}
NEEDED_BY_CLASS = {"transient": (), "permanent": (APPROVAL,), "partial": (COMPENSATION,)}
LOST_UNTIL_PARKED = 5


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One rule of a policy; the defaults are what holds without one."""

    environments: tuple[str, ...] = ("dev", "staging", "prod")
    decisions: tuple[str, ...] = KINDS
    roles: tuple[str, ...] = ("operator", "admin")
    approvers: int = 1
    not_starter: bool = False
    not_input_editor: bool = False
    note_required: bool = False
    minutes: int | None = None
    api_keys: bool = True

    def toml(self, name: str) -> str:
        """Return the rule as a policy file says it."""

        def words(several: Sequence[str]) -> str:
            return "[" + ", ".join(f'"{word}"' for word in several) + "]"

        lines = [
            "[[rule]]",
            f'name = "{name}"',
            f"environments = {words(self.environments)}",
            f"decisions = {words(self.decisions)}",
            f"roles = {words(self.roles)}",
            f"approvers = {self.approvers}",
            *(
                f"{flag} = {str(getattr(self, flag)).lower()}"
                for flag in ("not_starter", "not_input_editor", "note_required", "api_keys")
            ),
        ]
        return "\n".join([*lines, f'expires_after = "{self.minutes}m"'] if self.minutes else lines)


NOTHING_ASKED = Asked()


@dataclass(kw_only=True)
class OpenFailure:
    """A failure that is not mended; `passed` once the run went on behind it, as it was allowed to."""

    index: int
    key: str
    classification: str
    needed: tuple[str, ...]
    passed: bool = False


@dataclass(kw_only=True)
class Doubt:
    """An attempt that was cut off; `asked`: its step wants a person to look before it acts again."""

    index: int
    asked: bool
    events_before: int
    acknowledged: bool = False
    approved: bool = False


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Something a step did outside, and when."""

    moment: int
    index: int
    how: str
    key: str


@dataclass
class Oracle:
    """Watch one run; `damage` says what should not have happened."""

    run_id: str
    environment: str
    rules: Sequence[Asked]
    starter: str
    owners: Mapping[str, str]  # the name of a key -> who made it
    asking: Collection[int]  # steps that want a person to look after an interruption
    events: Callable[[], Sequence[AuditEvent]]
    now: Callable[[], datetime]
    effects: list[Effect] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    records: list[tuple[int, str]] = field(default_factory=list)
    open: dict[int, OpenFailure] = field(default_factory=dict)
    doubts: dict[int, Doubt] = field(default_factory=dict)
    completed: dict[int, set[str]] = field(default_factory=dict)  # index -> keys
    old_keys: list[str] = field(default_factory=list)
    finished: str | None = None
    lost: int = 0
    waited: int = 0  # acts that had to be decided first, and were
    _undone: set[str] = field(default_factory=set)
    _retried: dict[str, int] = field(default_factory=dict)  # failures within a go, by key
    _judged: int = 0

    # What steps do

    def acts(self, index: int, name: str, state: dict[str, Any], key: str, how: str) -> None:
        """A step is called, or its record accepted, `how`: workflow, reconcile, hand or append."""
        self.effects.append(Effect(moment=len(self.effects), index=index, how=how, key=key))
        if key != hashlib.sha256(f"{self.run_id}:{name}:{index}:{hash_input(state)}".encode()).hexdigest():
            self._wrong(f"step {index} was called with another key")
        if key in self.completed.get(index, ()):
            self._wrong(f"step {index} acts again with the key it was completed with")
        if how in ("workflow", "reconcile") and index in self.completed:
            self._wrong(f"step {index} is completed and acts again")
        self.goes_on(f"step {index} ({how})")

    def goes_on(self, what: str) -> None:
        """The run goes on: everything must be decided, and is used by that."""
        if self.finished is not None:
            self._wrong(f"{what} behind the end of the run: {self.finished}")
        events = self.events() if self.open or self.doubts else ()
        for failure in self.open.values():
            if not failure.passed:
                self._must_be_decided(what, failure.needed, {failure.key}, events)
                failure.passed = True
        for doubt in self.doubts.values():
            self._pass(doubt, what, events)

    def _pass(self, doubt: Doubt, what: str, events: Sequence[AuditEvent]) -> None:
        needed = (ACKNOWLEDGED,) if self.environment == "prod" and not doubt.acknowledged else ()
        looked = doubt.asked or self.lost >= LOST_UNTIL_PARKED
        if looked and not doubt.approved:
            needed = (*needed, APPROVAL)
        since = events[doubt.events_before :]
        keys = {e.failure_key or "" for e in since if e.event_type == "run.interrupted"}
        self._must_be_decided(f"{what}, after an interruption of step {doubt.index},", needed, keys, events)
        doubt.acknowledged = True
        doubt.approved |= looked
        if looked:
            self.lost = 0

    def _must_be_decided(
        self, what: str, needed: Sequence[str], keys: Collection[str], events: Sequence[AuditEvent]
    ) -> None:
        if not needed:
            return
        if any(all(self.is_decided(kind, key, events) for kind in needed) for key in keys):
            self.waited += 1
            return
        self._wrong(f"{what} acts before {' and '.join(needed)} for {' or '.join(keys) or 'it'}")

    def completes(self, index: int, key: str) -> None:
        """A step is done, and nobody minds what came before it."""
        self.records.append((index, "completed"))
        self._settle(index)
        self.completed.setdefault(index, set()).add(key)
        self.lost = 0

    def fails(self, index: int, classification: str, *, again: bool = False) -> None:
        """A step fails; `again`: within the attempts of this go, so that nobody has to look yet."""
        key = f"{index}:{len(self.records)}"
        self.records.append((index, "failed"))
        self.lost = 0
        if again:
            self._retried[key] = index
            return
        self._settle(index)
        acknowledged = (ACKNOWLEDGED,) if self.environment == "prod" else ()
        needed = (*NEEDED_BY_CLASS[classification], *acknowledged)
        self.open[index] = OpenFailure(index=index, key=key, classification=classification, needed=needed)

    def is_cut_off(self, index: int, how: str) -> None:
        """The executor vanishes in the middle of a step; by hand, nobody said what that step asks for."""
        asked = index in self.asking and how != "hand"
        self.doubts[index] = Doubt(index=index, asked=asked, events_before=len(self.events()))
        self.lost += 1

    def undoes(self, index: int) -> None:
        """A compensation is called, or its record accepted: only what failed as partial is undone."""
        failure = self.open.get(index)
        if failure is None or failure.classification != "partial" or failure.passed:
            self._wrong(f"step {index} is undone, and nothing waits for that")
        elif failure.key in self._undone:
            self._wrong(f"step {index} is undone twice for one failure")

    def undid(self, index: int, outcome: str) -> None:
        """A compensation ends; it opens nothing by itself."""
        self.records.append((index, outcome))
        if outcome == "completed" and index in self.open:
            self._undone.add(self.open[index].key)

    def _settle(self, index: int) -> None:
        self.doubts.pop(index, None)
        earlier = self.open.pop(index, None)
        if earlier is not None:
            self.old_keys.append(earlier.key)

    # Decisions, as the audit has them

    def is_decided(self, kind: str, key: str, events: Sequence[AuditEvent]) -> bool:
        """Return whether enough people have decided about this very failure, and still count."""
        asked = self.asked(kind)
        now = self.now()
        people = {
            self._person(event)
            for event in events
            if event.event_type == EVENT_OF_KIND[kind]
            and event.failure_key == key
            and self._objection(event, asked, events) is None
            and (asked.minutes is None or now < event.created_at + timedelta(minutes=asked.minutes))
        }
        return len(people) >= asked.approvers

    def asked(self, kind: str) -> Asked:
        """Return what the first rule that fits asks for."""
        fitting = (r for r in self.rules if self.environment in r.environments and kind in r.decisions)
        return next(fitting, NOTHING_ASKED)

    def is_closed(self) -> bool:
        """Return whether an open failure still waits for a decision."""
        events = self.events()
        return any(
            not failure.passed and not self.is_decided(kind, failure.key, events)
            for failure in self.open.values()
            for kind in failure.needed
        )

    def looks(self) -> Sequence[AuditEvent]:
        """Judge every decision that was recorded since the last look; return the new events."""
        events = self.events()
        new, self._judged = events[self._judged :], len(events)
        known = {failure.key for failure in self.open.values()}
        known |= {e.failure_key or "" for e in events if e.event_type == "run.interrupted"}
        # Where the go was cut off, people may be asked about what it would have tried again: no harm.
        known |= {key for key, index in self._retried.items() if index not in self.completed}
        for event in new:
            if event.event_type in KIND_OF_EVENT:
                kind = KIND_OF_EVENT[event.event_type]
                objection = self._objection(event, self.asked(kind), events)
                if objection is not None:
                    self._wrong(f"{event.actor} ({event.role}) was let decide {kind}: {objection}")
                if event.failure_key not in known:
                    self._wrong(f"{kind} was recorded for {event.failure_key}, open are {known}")
            elif event.event_type in ("gate.rejected", "run.completed"):
                self.finished = event.event_type
        return new

    def _objection(self, event: AuditEvent, asked: Asked, events: Sequence[AuditEvent]) -> str | None:
        before = events[: events.index(event)]
        editors = {self._named(e.actor) for e in before if e.event_type == "run.input_changed"}
        person = self._named(event.actor)
        if event.role not in asked.roles:
            return f"it takes {asked.roles}"
        if event.channel == "api" and not asked.api_keys:
            return "a key"
        if asked.not_starter and person == self._named(self.starter):
            return "started the run"
        if asked.not_input_editor and person in editors:
            return "changed its input"
        if asked.note_required and not (event.note or "").strip():
            return "without a note"
        return None

    def _person(self, event: AuditEvent) -> str:
        by_engine = "step_sequence" in event.payload and event.channel != "api"
        return "the engine" if by_engine else self._named(event.actor)

    def _named(self, actor: str) -> str:
        return self.owners.get(actor, actor).strip().casefold()

    def _wrong(self, what: str) -> None:
        self.damage.append(what)
