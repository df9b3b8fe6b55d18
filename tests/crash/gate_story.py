"""Workflows made by chance, and everything that may be done to one run between and around its resumes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from flask import Flask

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.clock import ManualClock, replaced_by
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    DecisionError,
    ResumeEngineError,
)
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.policy import NO_POLICY, Policy
from resume_engine.core.policy_file import parse_policy
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.step import Step
from resume_engine.core.step_record import (
    COMPENSATION_PREFIX,
    FailureClassification,
    StepRecord,
    StepStatus,
)
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.crash.gate_oracle import (
    ACKNOWLEDGED,
    APPROVAL,
    COMPENSATION,
    EVENT_OF_KIND,
    KINDS,
    Asked,
    Oracle,
)
from tests.provision.app_fixtures import CHEAP
from tests.webapp.api.caller import ApiClient, without_key
from webapp import Settings, create_app
from webapp.extensions import services

ENVIRONMENTS = ("dev", "staging", "prod")
WRONG = ("complete", "transient", "partial", "permanent", "crash")
ERRORS: Mapping[str, type[Exception]] = {
    "transient": TransientStepError,
    "permanent": PermanentStepError,
    "partial": PartialStepError,
}
STARTER, EDITOR = "ana", "dia"
PEOPLE = ("ana", "Ana ", "bob", "cem", "dia")
TRUSTED = ("olga", "otto", "omar")  # they have nothing to do with the run, and decide in the end
WORD_OF_KIND = {APPROVAL: "approve", COMPENSATION: "compensate", ACKNOWLEDGED: "ack_prod_resume"}
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Crash(BaseException):
    """The executor vanishes: nothing catches it, and nothing is written."""


EXPECTED = (ResumeEngineError, *ERRORS.values(), ConnectionError, Crash)
"""How a move may end; everything else is a failure of the test."""


@dataclass(frozen=True)
class Ground:
    """A database, an application on it, and keys with those who made them."""

    store: SqlCheckpointStore
    app: Flask
    keys: Mapping[str, ApiClient]
    owners: Mapping[str, str]
    remote: RemoteCheckpointStore
    clock: ManualClock


@contextmanager
def ground(store: SqlCheckpointStore) -> Iterator[Ground]:
    """Lend everything that stories on one database share."""
    clock = ManualClock(NOON)
    with replaced_by(clock):
        app = create_app(Settings(password_cost=CHEAP, api_rate_limit=None), store=store)
        keys: dict[str, ApiClient] = {}
        owners: dict[str, str] = {}
        for name, role in (
            ("ana", Role.OPERATOR),
            ("bob", Role.OPERATOR),
            ("otto", Role.ADMIN),
            ("ron", Role.RUNNER),
            ("alice", Role.AUDITOR),
        ):
            maker = Actor(name=name, role=Role.ADMIN, channel=Channel.DASHBOARD)
            made = services(app).keys.create(f"key of {name}", role, actor=maker)
            client = without_key(app)
            client.key, client.name = made.text, made.key.actor.name
            keys[name], owners[client.name] = client, name
        remote = RemoteCheckpointStore(
            "http://localhost/api",
            api_key=keys["ron"].key,
            retry_seconds=5,
            transport=httpx.WSGITransport(app, raise_app_exceptions=False),
        )
        yield Ground(store, app, keys, owners, remote, clock)


@dataclass
class Scripted:
    """A step, and what its attempts, its compensation and its reconciliation do, one after the other."""

    name: str
    attempts: int
    on_interrupted: str
    outcomes: list[str]
    undone: list[str] | None
    found: list[str] | None


@dataclass
class Counts:
    """How often each thing happened, over many stories."""

    moves: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    stories: int = 0
    steps: int = 0
    effects: int = 0
    waited: int = 0


def random_rules(chance: random.Random) -> list[Asked]:
    """Return no policy, one rule for everything, or one rule for a part and one for the rest."""

    def rule(**fits: Any) -> Asked:
        return Asked(
            roles=chance.choice([("operator", "admin"), ("operator", "admin"), ("admin",)]),
            approvers=chance.choice([1, 1, 2, 2, 3]),
            not_starter=chance.random() < 0.3,
            not_input_editor=chance.random() < 0.2,
            note_required=chance.random() < 0.3,
            minutes=chance.choice([None, 30, 30]),
            api_keys=chance.random() < 0.8,
            **fits,
        )

    count = chance.choice([0, 1, 1, 2])
    if count < 2:
        return [rule() for _ in range(count)]
    if chance.random() < 0.5:
        return [rule(environments=tuple(chance.sample(ENVIRONMENTS, chance.randint(1, 2)))), rule()]
    return [rule(decisions=tuple(chance.sample(KINDS, chance.randint(1, 2)))), rule()]


def random_workflow(chance: random.Random) -> list[Scripted]:
    """Return one to eight steps of which about every second goes wrong some time."""

    def some(words: Sequence[str], most: int) -> list[str]:
        return [chance.choice(words) for _ in range(chance.randint(0, most))]

    return [
        Scripted(
            name=f"step_{index}",
            attempts=chance.choice([1, 1, 2, 3]),
            on_interrupted=chance.choice(["retry", "gate"]),
            outcomes=["crash"] * 6 if chance.random() < 0.02 else some(WRONG, chance.choice([0, 1, 2, 4])),
            undone=some(("complete", "transient", "permanent", "crash"), 2)
            if chance.random() < 0.7
            else None,
            found=some(("found", "none", "fails", "crash"), 2) if chance.random() < 0.4 else None,
        )
        for index in range(chance.randint(1, 8))
    ]


class Story:
    """One run, from its start to its end; every move is drawn from `chance`."""

    def __init__(self, ground: Ground, chance: random.Random, number: int, counts: Counts) -> None:
        run_id = f"run-{number}"
        self.ground, self.chance, self.run_id, self.counts = ground, chance, run_id, counts
        self.store, self.clock = ground.store, ground.clock
        self.rules = random_rules(chance)
        self.steps = random_workflow(chance)
        # However few stories there are, each move and each failure in each environment is among them.
        self.first_move = tuple(_WEIGHTS)[number % len(_WEIGHTS)]
        self.environment = ENVIRONMENTS[number // len(WRONG) % len(ENVIRONMENTS)]
        self.steps[0].outcomes.insert(0, WRONG[number % len(WRONG)])
        self.steps[0].attempts = number % 3 + 1
        text = "\n".join(rule.toml(f"rule {n}") for n, rule in enumerate(self.rules))
        self.policy: Policy = parse_policy(text, "by chance") if text else NO_POLICY
        services(ground.app).engine.policy = self.policy
        self.engines = [ResumeEngine(self.store, owner=f"worker-{n}", policy=self.policy) for n in (1, 2)]
        self.remote = ResumeEngine(ground.remote, owner="worker-3")
        self.oracle = Oracle(
            run_id=run_id,
            environment=self.environment,
            rules=self.rules,
            starter=STARTER,
            owners=ground.owners,
            asking={n for n, step in enumerate(self.steps) if step.on_interrupted == "gate"},
            events=lambda: self.store.list_events(run_id),
            now=self.clock.now,
        )
        self.inputs: dict[int, dict[str, Any]] = {}
        self.tried: Counter[int] = Counter()
        self.told: list[str] = []

    def happens(self) -> None:
        """Let the run begin, be disturbed, and come to its end; raise when a gate was skipped."""
        self.counts.stories += 1
        self.counts.steps += len(self.steps)
        actor = Actor(name=STARTER, role=Role.RUNNER, channel=Channel.DASHBOARD)
        self.engines[0].start_run("graph", run_id=self.run_id, environment=self.environment, actor=actor)
        self._do(self.begin)
        moves = self.chance.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()), k=self.chance.randint(3, 14))
        for move in (self.first_move, *moves):
            self._do(getattr(self, move.__name__))
        self._finish()
        self._compare()
        self.counts.effects += len(self.oracle.effects)
        self.counts.waited += self.oracle.waited

    def _do(self, move: Callable[[], None]) -> None:
        self.tried.clear()
        name = move.__name__
        self.counts.moves[name] += 1
        try:
            move()
            self.told.append(name)
        except EXPECTED as refused:
            self.counts.refusals[type(refused).__name__] += 1
            self.told.append(f"{name}: {type(refused).__name__}: {refused}")
        for event in self.oracle.looks():
            self.counts.events[event.event_type] += 1
            if event.event_type == "run.updated" and event.payload["status"] == "completed":
                self.oracle.finished = "set to completed"
        assert not self.oracle.damage, self.tale()

    def tale(self) -> str:
        """Return what went wrong and all that led to it."""
        rules = [rule.toml(str(n)).replace("\n", " ") for n, rule in enumerate(self.rules)]
        return "\n  ".join(
            [*self.oracle.damage, f"{self.run_id} in {self.environment}", *rules, *self.told[-40:]]
        )

    # Steps

    def workflow(self) -> list[Step]:
        """Return the steps as a runner gives them to the engine."""
        return [self._step(index, scripted) for index, scripted in enumerate(self.steps)]

    def _step(self, index: int, scripted: Scripted) -> Step:
        return Step(
            scripted.name,
            self._function(index, "workflow"),
            retry=RetryPolicy(attempts=scripted.attempts, backoff=Backoff(base_seconds=0, cap_seconds=0)),
            on_interrupted="gate" if scripted.on_interrupted == "gate" else "retry",
            reconcile=self._reconciliation(index) if scripted.found is not None else None,
            compensate=self._compensation(index) if scripted.undone is not None else None,
        )

    def _next(self, outcomes: list[str] | None, otherwise: str) -> str:
        return outcomes.pop(0) if outcomes else otherwise

    def _function(self, index: int, how: str) -> Callable[[dict[str, Any], str], dict[str, Any]]:
        scripted = self.steps[index]

        def act(state: dict[str, Any], key: str) -> dict[str, Any]:
            self.inputs[index] = state
            self.oracle.acts(index, scripted.name, state, key, how)
            self.tried[index] += 1
            outcome = self._next(scripted.outcomes, "complete")
            self.counts.outcomes[outcome] += 1
            self.told.append(f"  {how} {scripted.name}: {outcome}")
            if self.chance.random() < 0.03:
                self.clock.advance(31 * 60)  # a step may take longer than decisions last
            if outcome == "complete":
                self.oracle.completes(index, key)
                return {scripted.name: len(self.oracle.effects)}
            if outcome == "crash":
                self.oracle.is_cut_off(index, how)
                raise Crash
            tries = scripted.attempts if how == "workflow" else 1
            again = outcome == "transient" and self.tried[index] < tries
            self.counts.failures["retried" if again else f"{outcome} in {self.environment}"] += 1
            self.oracle.fails(index, outcome, again=again)
            raise ERRORS[outcome](f"{outcome} as the script says")

        return act

    def _reconciliation(self, index: int) -> Callable[[dict[str, Any], str], dict[str, Any] | None]:
        scripted = self.steps[index]

        def find(state: dict[str, Any], key: str) -> dict[str, Any] | None:
            self.oracle.acts(index, scripted.name, state, key, "reconcile")
            outcome = self._next(scripted.found, "none")
            self.counts.outcomes[f"reconcile: {outcome}"] += 1
            self.told.append(f"  reconcile {scripted.name}: {outcome}")
            if outcome == "crash":
                self.oracle.is_cut_off(index, "reconcile")
                raise Crash
            if outcome == "fails":
                self.oracle.fails(index, "permanent")
                raise ConnectionError("nobody knows")
            if outcome == "none":
                return None
            self.oracle.completes(index, key)
            return {scripted.name: "found"}

        return find

    def _compensation(self, index: int) -> Callable[[dict[str, Any], str], dict[str, Any]]:
        scripted = self.steps[index]

        def undo(_state: dict[str, Any], _key: str) -> dict[str, Any]:
            self.oracle.undoes(index)
            outcome = self._next(scripted.undone, "complete")
            self.counts.outcomes[f"compensate: {outcome}"] += 1
            self.told.append(f"  compensate {scripted.name}: {outcome}")
            if outcome == "crash":
                raise Crash
            self.oracle.undid(index, "completed" if outcome == "complete" else "failed")
            if outcome == "complete":
                return {"undone": index}
            raise ERRORS[outcome]("it cannot be undone")

        return undo

    # Ways to go on

    def _engine(self) -> ResumeEngine:
        return self.chance.choice(self.engines)

    def begin(self) -> None:
        self._engine().execute_workflow(self.run_id, self.workflow(), initial_input={"order": self.run_id})

    def resume(self) -> None:
        self._engine().resume(self.run_id, self.workflow())

    def resume_over_http(self) -> None:
        self.remote.resume(self.run_id, self.workflow())

    def resume_an_outdated_version(self) -> None:
        now = self.store.load_summary(self.run_id)
        assert now is not None
        old = max(0, now.version - self.chance.randint(1, 3))
        self._engine().resume(self.run_id, self.workflow(), if_version=old)
        assert now.status is RunStatus.COMPLETED or old == now.version, "an outdated version was resumed"

    def resume_with_another_input(self) -> None:
        self._engine().resume(
            self.run_id,
            self.workflow(),
            initial_input={"order": self.run_id, "edit": len(self.told)},
            allow_input_change=True,
            actor=Actor(name=EDITOR, role=Role.RUNNER, channel=Channel.DASHBOARD),
        )

    def execute_from_somewhere(self) -> None:
        start = self.chance.randint(0, len(self.steps))
        self._engine().execute_workflow(self.run_id, self.workflow(), start_index=start)

    def execute_by_hand(self) -> None:
        index = self.chance.randrange(len(self.steps))
        engine = self.remote if self.chance.random() < 0.2 else self._engine()
        function = self._function(index, "hand")
        engine.execute_step(self.run_id, self.steps[index].name, index, self._input(index), function)

    def _input(self, index: int) -> dict[str, Any]:
        known = self.inputs.get(index)
        return known if known is not None and self.chance.random() < 0.7 else {"by": "hand"}

    def append_step(self) -> None:
        """A client of 0.2.0 records what it did by itself."""
        made = self._outside_record()
        if made is None:
            return
        index, record = made
        self.store.append_step(self.run_id, record)
        self._appended(index, record)

    def append_step_over_http(self) -> None:
        made = self._outside_record()
        if made is None:
            return
        index, record = made
        answer = self.ground.keys["ron"].post(
            f"/runs/{self.run_id}/steps",
            json={
                "step_name": record.step_name,
                "step_index": index,
                "status": record.status.value,
                "input_json": record.input_data,
                "output_json": record.output_data,
                "failure_classification": record.failure_classification,
                "error_message": None,
                "sequence": record.sequence,
                "idempotency_key": record.idempotency_key,
            },
        )
        assert answer.status_code in (201, 409), answer.text
        self.counts.refusals[f"HTTP {answer.status_code}"] += 1
        if answer.status_code == 201:
            self._appended(index, record)

    def _outside_record(self) -> tuple[int, StepRecord] | None:
        left = [index for index in range(len(self.steps)) if index not in self.oracle.completed]
        if not left:
            return None
        index = self.chance.choice(left)
        name, state = self.steps[index].name, self._input(index)
        if self.chance.random() < 0.2:
            # With another input it would undo something else, under another key.
            tried = [r for r in self.store.iter_steps(self.run_id) if r.step_name == name]
            name, state = f"{COMPENSATION_PREFIX}{name}", tried[-1].input_data if tried else state
        outcome = self.chance.choice(["completed", "completed", *ERRORS])
        failed = outcome != "completed"
        return index, StepRecord(
            step_name=name,
            step_index=index,
            input_data=state,
            input_hash=hash_input(state),
            output_data=None if failed else {name: "outside"},
            status=StepStatus.FAILED if failed else StepStatus.COMPLETED,
            idempotency_key=generate_idempotency_key(self.run_id, name, index, hash_input(state)),
            failure_classification=FailureClassification(outcome) if failed else None,
            sequence=len(self.oracle.records),
        )

    def _appended(self, index: int, record: StepRecord) -> None:
        outcome = record.status.value
        self.told.append(f"  recorded {record.step_name}: {record.failure_classification or outcome}")
        if record.step_name.startswith(COMPENSATION_PREFIX):
            self.oracle.undid(index, outcome)  # whatever it undid: it opens nothing
            return
        self.oracle.acts(index, record.step_name, record.input_data, record.idempotency_key, "append")
        if record.failure_classification is None:
            self.oracle.completes(index, record.idempotency_key)
        else:
            self.oracle.fails(index, record.failure_classification.value)

    def update_run(self) -> None:
        """A client of 0.2.0 sets a status, and metadata that would open everything if it were believed."""
        status = self.chance.choice(list(RunStatus))
        forged = {"environment": "dev", "gates": self._forged_gates()}
        before = self._status()
        self.store.update_run(Run(run_id=self.run_id, workflow_name="graph", status=status, metadata=forged))
        self.told.append(f"  set to {status}")
        self._updated(before, status)

    def patch_over_http(self) -> None:
        """The same over HTTP, where what gates decide counts as the decision of the caller."""
        status = self.chance.choice(list(RunStatus))
        name = self.chance.choice(list(self.ground.keys))
        body: dict[str, Any] = {"metadata": {"gates": self._forged_gates()}}
        if self.chance.random() < 0.5:
            body["status"] = status.value
        before = self._status()
        answer = self.ground.keys[name].patch(f"/runs/{self.run_id}", json=body)
        assert answer.status_code in (200, 400, 403, 409, 422), answer.text
        self.counts.refusals[f"HTTP {answer.status_code}"] += 1
        if answer.status_code == 200 and "status" in body:
            self._updated(before, status)

    def _status(self) -> RunStatus:
        now = self.store.load_summary(self.run_id)
        assert now is not None
        return now.status

    def _updated(self, before: RunStatus, status: RunStatus) -> None:
        """Whoever sets a run to running says that it goes on: what was decided is used by that."""
        changed = status is not before and self.oracle.finished is None
        if changed and status in (RunStatus.RUNNING, RunStatus.COMPLETED):
            self.oracle.goes_on(f"a status set to {status}")

    def _forged_gates(self) -> dict[str, Any]:
        key = self._some_key() or "0:0"
        entry = {"granted": True, "failure_key": key, "approved_by": "mallory", "note": "let me"}
        return self.chance.choice(
            [
                {"human_approval": entry},
                {"approvals": {key: entry}},
                {"compensations": {key: {"result": {"ok": True}}}},
                {"prod_resume_ack": {"granted": True, "acknowledged_by": "mallory"}},
                {"prod_resume_acks": {key: entry}},
            ]
        )

    def complete_run(self) -> None:
        self._engine().complete_run(self.run_id)
        if self.oracle.finished is None:
            self.oracle.goes_on("complete_run")

    def validate_over_http(self) -> None:
        """`POST /resume` of 0.2.0: whoever gets a 200 goes on."""
        answer = self.ground.keys["ron"].post("/resume", json={"run_id": self.run_id})
        assert answer.status_code in (200, 409), answer.text
        if answer.status_code == 200 and self.oracle.finished is None:
            assert not self.oracle.is_closed(), f"told that it may go on\n{self.tale()}"

    def look_at_blockers(self) -> None:
        blockers = self._engine().get_resume_blockers(self.run_id)
        if self.oracle.finished is None and self.oracle.is_closed():
            assert blockers, f"a closed gate is not told\n{self.tale()}"

    # Decisions

    def _wanted(self) -> tuple[str, str] | None:
        """Return kind and failure key of a decision that is missing, as the engine tells people."""
        blockers = self.engines[0].get_resume_blockers(self.run_id)
        if not blockers:
            return None
        blocker = self.chance.choice(blockers)
        return blocker.required_action, blocker.failure_key

    def _some_key(self) -> str | None:
        keys = [*self.oracle.old_keys, *(failure.key for failure in self.oracle.open.values())]
        return self.chance.choice(keys) if keys else None

    def _actor(self) -> Actor:
        return Actor(
            name=self.chance.choice(PEOPLE),
            role=self.chance.choice([Role.OPERATOR, Role.OPERATOR, Role.ADMIN, Role.ADMIN]),
            channel=self.chance.choice([Channel.DASHBOARD, Channel.CLI, Channel.API]),
        )

    def _note(self) -> str | None:
        return self.chance.choice([None, " ", "looked at it", "looked at it", "looked at it"])

    def decide(self) -> None:
        """Decide what is missing, whoever it is that decides."""
        wanted = self._wanted()
        if wanted is not None:
            key = wanted[1] if self.chance.random() < 0.7 else None
            self._decide(wanted[0], self._actor(), key)

    def decide_all(self) -> None:
        """Let people who may decide everything that is missing."""
        for _ in range(8):
            wanted = self._wanted()
            if wanted is None:
                return
            self._decide_as_trusted(*wanted)

    def _decide_as_trusted(self, kind: str, key: str) -> None:
        for name in TRUSTED[: self.oracle.asked(kind).approvers]:
            actor = Actor(name=name, role=Role.ADMIN, channel=Channel.DASHBOARD)
            try:
                self._decide(kind, actor, key, note="looked at it")
            except DecisionError as refused:
                self.counts.refusals[type(refused).__name__] += 1

    def decide_about_another_gate(self) -> None:
        self._decide(self.chance.choice(KINDS), self._actor(), None)

    def decide_in_the_wrong_role(self) -> None:
        wanted = self._wanted()
        if wanted is None:
            return
        actor = Actor(name="ron", role=self.chance.choice([Role.AUDITOR, Role.RUNNER]))
        self._decide(wanted[0], actor, wanted[1])
        raise AssertionError(f"{actor} decided\n{self.tale()}")

    def decide_as_who_started(self) -> None:
        wanted = self._wanted()
        if wanted is not None:
            actor = Actor(name=f" {STARTER.title()}", role=Role.ADMIN, channel=Channel.DASHBOARD)
            self._decide(wanted[0], actor, wanted[1])

    def decide_about_an_old_failure(self) -> None:
        wanted = self._wanted()
        if wanted is None or not self.oracle.old_keys:
            return
        self._decide(wanted[0], self._actor(), self.chance.choice(self.oracle.old_keys))

    def _decide(self, kind: str, actor: Actor, key: str | None, note: str | None = None) -> None:
        note = note or self._note()
        self.told.append(f"  {actor.name} ({actor.role}) decides {kind} about {key}, note {note!r}")
        decision = self._engine().decide(self.run_id, kind, actor, failure_key=key, note=note)
        [made] = [e for e in self.oracle.looks() if e.event_type == EVENT_OF_KIND[kind]]
        self.counts.events[made.event_type] += 1
        assert made.failure_key == decision.failure_key
        if key is not None and made.failure_key != key:
            self.oracle.damage.append(f"a decision about {key} counts for {made.failure_key}")

    def decide_by_a_library_call(self) -> None:
        engine, note = self._engine(), self._note()
        wanted = self._wanted()
        kind = wanted[0] if wanted is not None else self.chance.choice(KINDS)
        if kind == APPROVAL:
            engine.grant_human_approval(self.run_id, "bob", note=note)
        elif kind == ACKNOWLEDGED:
            engine.ack_prod_resume(self.run_id, "cem", note=note)
        else:
            engine.record_compensation(self.run_id, result={"refund": 1}, note=note)

    def decide_over_http(self) -> None:
        wanted = self._wanted()
        if wanted is None:
            return
        kind, key = wanted
        name = self.chance.choice(list(self.ground.keys))
        headers, body = {}, {} if kind == COMPENSATION else {"approved_by": "mallory"}
        if kind == ACKNOWLEDGED:
            body = {"acknowledged_by": "mallory"}
        note = self._note()
        body |= {} if note is None else {"note": note}
        outdated = self.chance.random() < 0.2
        if outdated:
            headers = {"If-Match": '"0-0"'}
        elif self.chance.random() < 0.5:
            key = self.chance.choice([key, *self.oracle.old_keys])
            body["failure_key"] = key
        answer = self.ground.keys[name].post(
            f"/runs/{self.run_id}/{WORD_OF_KIND[kind]}", json=body, headers=headers
        )
        self.told.append(f"  key of {name}: {kind} {body} {headers} -> {answer.status_code}")
        assert answer.status_code in (200, 400, 403, 409, 412, 422), answer.text
        self.counts.refusals[f"HTTP {answer.status_code}"] += 1
        assert not (outdated and answer.status_code == 200), "a decision on an outdated version"
        if answer.status_code == 200 and key in self.oracle.old_keys:
            self.oracle.damage.append(f"a decision about {key} was accepted")

    def compensate(self) -> None:
        engine = self.remote if self.chance.random() < 0.2 else self._engine()
        blockers = self.engines[0].get_resume_blockers(self.run_id)
        index = next((b.step_index for b in blockers if b.required_action == COMPENSATION), 0)
        note = self._note()
        if self.chance.random() < 0.5:
            engine.execute_compensation(self.run_id, steps=self.workflow(), note=note)
        else:
            self.steps[index].undone = self.steps[index].undone or []
            engine.execute_compensation(self.run_id, self._compensation(index), note=note)

    def reject(self) -> None:
        self._engine().reject_run(self.run_id, "otto", note="enough of it")

    def let_time_pass(self) -> None:
        self.clock.advance(60 * self.chance.choice([1, 20, 31, 61]))

    # The end

    def _finish(self) -> None:
        """Without further faults the run comes to its end, once people have decided."""
        for step in self.steps:
            step.outcomes.clear()
            if step.found is not None:
                step.found.clear()
        for _ in range(40):
            if self.oracle.finished is not None:
                return
            self._do(self.decide_all)
            self._do(self.resume)
            self._do(self.repeat_by_hand)
        raise AssertionError(f"the run does not come to its end\n{self.tale()}")

    def repeat_by_hand(self) -> None:
        """What was cut off with an input of its own is not what the workflow would do."""
        for index in list(self.oracle.doubts):
            function = self._function(index, "hand")
            self.engines[0].execute_step(
                self.run_id, self.steps[index].name, index, self.inputs[index], function
            )

    def _compare(self) -> None:
        """What the steps saw is what is on record."""
        found = [(r.step_index, r.status.value) for r in self.store.iter_steps(self.run_id)]
        assert found == self.oracle.records, f"{found}\n{self.oracle.records}\n{self.tale()}"


_WEIGHTS: Mapping[Callable[[Story], None], float] = {
    Story.resume: 8,
    Story.resume_over_http: 0.5,
    Story.resume_an_outdated_version: 0.5,
    Story.resume_with_another_input: 0.7,
    Story.execute_from_somewhere: 1,
    Story.execute_by_hand: 2,
    Story.append_step: 1,
    Story.append_step_over_http: 0.3,
    Story.update_run: 1,
    Story.patch_over_http: 0.5,
    Story.complete_run: 0.4,
    Story.validate_over_http: 0.3,
    Story.look_at_blockers: 0.5,
    Story.decide: 5,
    Story.decide_all: 4,
    Story.decide_about_another_gate: 1,
    Story.decide_in_the_wrong_role: 0.7,
    Story.decide_as_who_started: 0.7,
    Story.decide_about_an_old_failure: 1,
    Story.decide_by_a_library_call: 1,
    Story.decide_over_http: 0.7,
    Story.compensate: 2,
    Story.reject: 0.1,
    Story.let_time_pass: 3,
}
MOVES = tuple(move.__name__ for move in _WEIGHTS)
