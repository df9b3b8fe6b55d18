"""Every error the engine raises.

ResumeEngineError
├── RunNotFoundError                 no run has this id
├── RunExistsError                   the run id is taken
├── RunFinishedError                 the run is completed or cancelled: nothing more is written
├── RunBusyError                     another executor is working on the run
├── StaleRunError                    the run moved on since it was read
│   └── LeaseLostError               someone else took the run over from this executor
├── StepTimeoutError (TimeoutError)  a step took longer than it may
├── ResumeBlockedError               a gate is closed; carries `blockers`
├── InvalidValueError (ValueError)   a value that cannot be accepted; names the field
│   ├── UnknownEnvironmentError
│   └── InputNotSerializableError    the input of a step is not JSON; the step was not called
├── StepOutputError                  the step ran, its output cannot be recorded
│   ├── OutputNotDictError
│   ├── OutputNotSerializableError
│   └── OutputTooLargeError          the control plane takes no record of this size
├── WorkflowMismatchError            the steps given are not those of the record
├── InputMismatchError               the input given is not the one recorded
├── ReplayDivergenceError            a replay left the record
├── IdempotencyCollisionError        one key, two different steps
├── DecisionError                    a decision was not recorded
│   ├── NothingToDecideError         no gate of this kind is closed
│   ├── AlreadyDecidedError          someone decided this failure event before
│   │   └── AnotherPersonNeededError  it was you, and the policy asks for somebody else too
│   ├── FailureMovedOnError          the failure shown is not the run's current one
│   ├── DecisionNotAllowedError      the role may not decide
│   │   └── PolicyRefusalError        the policy does not let this person decide
│   └── DecisionInputError (InvalidValueError)  a note, reason or confirmation is missing or wrong
├── PolicyFileError                  the policy cannot be read; names file, rule and key
├── PayloadError                     a stored payload cannot be read
│   ├── PayloadLockedError           it is encrypted, and the key is not here
│   └── PayloadUnreadableError       it is damaged, or of a newer release
├── RemoteError                      the control plane did not do what it was asked
│   ├── RemoteAccessError            the key is wrong, or its role does not allow it
│   ├── RemoteTooLargeError          it takes no request of this size
│   ├── RemoteUnreachableError       it did not answer for so long
│   ├── RemoteUnsupportedError       it is too old for this call
│   └── SyncConflictError            a run here and the same run there contradict each other
└── SchemaError                      the database schema does not fit this release
    ├── SchemaOutdatedError
    └── SchemaTooNewError

Messages give run, step, expected, found and the next thing to do. There are no HTTP codes here:
`webapp.errors` maps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resume_engine.core.decisions import Decision
    from resume_engine.core.resume_gates import ResumeBlocker


class ResumeEngineError(Exception):
    """Base of every error raised by the engine."""


class InvalidValueError(ResumeEngineError, ValueError):
    """Report a value that cannot be accepted, by field."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


class UnknownEnvironmentError(InvalidValueError):
    """Report an environment that is not dev, staging or prod."""

    def __init__(self, value: object, known: Sequence[str]) -> None:
        super().__init__("environment", f"{value!r} is unknown; use one of {', '.join(known)}")


class RunNotFoundError(ResumeEngineError, ValueError):
    """Report a run id that no run has. (A ValueError too, as 0.2.0 raised.)"""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"Run not found: {run_id}. Check the id, or list runs with `resume-engine runs list`."
        )


class RunExistsError(ResumeEngineError, ValueError):
    """Report a run id that is already taken. (A ValueError too, as 0.2.0 raised.)"""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"Run already exists: {run_id}. Resume it, or start a run with another id.")


class RunFinishedError(ResumeEngineError):
    """Report work on a run that is completed or cancelled."""

    def __init__(self, run_id: str, status: str) -> None:
        self.run_id, self.status = run_id, status
        super().__init__(f"Run {run_id} is {status}: nothing more is written to it. Start a new run instead.")


class RunBusyError(ResumeEngineError):
    """Report a run that another executor is working on."""

    def __init__(self, run_id: str, owner: str, until: datetime | None) -> None:
        self.run_id, self.owner, self.until = run_id, owner, until
        ends = f", whose claim ends at {until.isoformat()}" if until else ""
        super().__init__(
            f"Run {run_id} is being executed by {owner}{ends}. Wait, then look at the run again."
        )


class StaleRunError(ResumeEngineError):
    """Report a write that was based on an outdated view of the run; nothing was written."""

    def __init__(self, run_id: str, expected: str, found: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"Run {run_id} moved on: expected {expected}, found {found}. "
            "Nothing was written; read the run again."
        )


class LeaseLostError(StaleRunError):
    """Report that this executor no longer holds the run; what it did since is not written."""

    def __init__(self, run_id: str, owner: str, held_by: str | None) -> None:
        self.owner, self.held_by = owner, held_by
        super().__init__(run_id, f"the lease of {owner}", f"that of {held_by}" if held_by else "no lease")


class StepTimeoutError(ResumeEngineError, TimeoutError):
    """Report a step that took longer than its timeout; what it still does has an unknown outcome."""

    def __init__(self, step_name: str, seconds: float) -> None:
        super().__init__(
            f"Step {step_name!r} took longer than its timeout of {seconds:g} s. It may still be running: "
            "its idempotency key keeps a second attempt from acting twice."
        )


class ResumeBlockedError(ResumeEngineError):
    """Report closed gates; `blockers` says which decisions are missing."""

    def __init__(self, blockers: list[ResumeBlocker], run_id: str | None = None) -> None:
        self.blockers = blockers
        self.run_id = run_id
        super().__init__(
            "Resume blocked: " + "; ".join(f"{b.required_action} ({b.message})" for b in blockers)
        )


class InputNotSerializableError(InvalidValueError):
    """Report a step input that JSON cannot hold; the step function was not called."""

    def __init__(self, run_id: str, step_name: str, step_index: int, reason: str) -> None:
        super().__init__(
            "input_data",
            f"the input of step {step_index} {step_name!r} of run {run_id} is not JSON ({reason}); "
            "the step was not called. Pass strings, numbers, booleans, lists and dicts.",
        )


class StepOutputError(ResumeEngineError):
    """Report an output that cannot be recorded although the step ran to its end."""


class OutputNotDictError(StepOutputError, TypeError):
    """Report a step that returned something other than a dict."""

    def __init__(self, run_id: str, step_name: str, step_index: int, found: str) -> None:
        super().__init__(
            f"Step {step_index} {step_name!r} of run {run_id} returned {found}, expected a dict. "
            "Its side effects may have happened; return a dict, compensate, then resume."
        )


class OutputNotSerializableError(StepOutputError, TypeError):
    """Report a step whose output JSON cannot hold."""

    def __init__(self, run_id: str, step_name: str, step_index: int, reason: str) -> None:
        super().__init__(
            f"Step {step_index} {step_name!r} of run {run_id} returned a dict "
            f"that JSON cannot hold ({reason}). "
            "Its side effects may have happened; return plain JSON values, compensate, then resume."
        )


class OutputTooLargeError(StepOutputError):
    """Report a step whose output is larger than the control plane takes."""

    def __init__(self, run_id: str, step_name: str, step_index: int, characters: int, reason: str) -> None:
        super().__init__(
            f"Step {step_index} {step_name!r} of run {run_id} returned {characters:,} characters of JSON, "
            f"which cannot be recorded ({reason}). Its side effects may have happened; "
            "return less, such as the place where the rest is kept, compensate, then resume."
        )


class WorkflowMismatchError(ResumeEngineError):
    """Report a workflow whose steps are not those of the record."""

    def __init__(
        self,
        run_id: str,
        step_index: int,
        expected: str,
        found: str,
        graphs: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> None:
        self.run_id, self.step_index, self.expected, self.found = run_id, step_index, expected, found
        both = f" Recorded: {_names(graphs[0])}. Given: {_names(graphs[1])}." if graphs else ""
        super().__init__(
            f"Run {run_id}, step {step_index}: the record says {expected}, the workflow given says {found}."
            f"{both} Resume with the workflow that started the run, or start a new run."
        )


def _names(steps: Sequence[str]) -> str:
    shown = ", ".join(steps[:20])
    return f"{shown}, ... ({len(steps)} steps)" if len(steps) > 20 else shown or "no steps"


class InputMismatchError(ResumeEngineError):
    """Report an initial input that is not the one the run was started with."""

    def __init__(self, run_id: str, expected_hash: str, found_hash: str) -> None:
        super().__init__(
            f"Run {run_id} was started with another initial input (recorded hash {expected_hash[:12]}, "
            f"given {found_hash[:12]}). Leave initial_input out to go on with the recorded one."
        )


class ReplayDivergenceError(ResumeEngineError):
    """Report the first place where a replay leaves the record: `difference` in words, `diff` in lines.

    Lines that begin with `-` are recorded; those with `+` are what the workflow makes of it.
    """

    def __init__(
        self, run_id: str, step_index: int, step_name: str, difference: str, diff: Sequence[str] = ()
    ) -> None:
        self.run_id, self.step_index, self.step_name = run_id, step_index, step_name
        self.difference, self.diff = difference, tuple(diff)
        first = f"Replay of run {run_id} diverges at step {step_index} {step_name!r}: {difference}"
        super().__init__("\n".join([first, *diff]))


class IdempotencyCollisionError(ResumeEngineError):
    """Report one idempotency key claimed by two different steps."""


class DecisionError(ResumeEngineError):
    """Base of the reasons why a decision was not recorded; nothing was changed."""


class NothingToDecideError(DecisionError, ValueError):
    """Report a decision for which no gate is closed. (A ValueError too, as 0.2.0 raised.)"""

    def __init__(self, run_id: str, kind: str, reason: str) -> None:
        self.run_id, self.kind = run_id, kind
        super().__init__(
            f"Run {run_id}: there is nothing to decide by {kind}: {reason}. Nothing was changed."
        )


class AlreadyDecidedError(DecisionError, ValueError):
    """Report that someone else decided this failure event first; `decision` is theirs."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        super().__init__(
            f"Run {decision.run_id}, failure {decision.failure_key}: already decided ({decision.kind}) "
            f"by {decision.actor} at {decision.decided_at.isoformat()}. Nothing was changed."
        )


class AnotherPersonNeededError(AlreadyDecidedError):
    """Report a person who decided before, where the policy asks for several; `decision` is theirs."""

    def __init__(self, decision: Decision, needed: int, given_by: Sequence[str]) -> None:
        super().__init__(decision)
        self.needed, self.given_by = needed, tuple(given_by)
        self.args = (
            f"Run {decision.run_id}, failure {decision.failure_key}: {decision.actor} has decided already "
            f"({decision.kind}); {len(given_by)} of {needed} people have, another person is needed. "
            "Nothing was changed.",
        )


class FailureMovedOnError(DecisionError):
    """Report that the failure the decision was made for is no longer the run's current one."""

    def __init__(
        self, run_id: str, shown: str, current: str | None, last_decision: Decision | None = None
    ) -> None:
        self.run_id, self.shown, self.current, self.last_decision = run_id, shown, current, last_decision
        now = f"its current failure is {current}" if current else "it has no open failure now"
        super().__init__(
            f"Run {run_id} moved on: the decision was for failure {shown}, {now}. "
            "Nothing was changed; look again."
        )


class DecisionNotAllowedError(DecisionError):
    """Report a role that may not decide gates."""

    def __init__(self, actor: str, role: str, kind: str) -> None:
        super().__init__(
            f"{actor} ({role}) may not decide {kind}: it needs the role operator. Nothing was changed."
        )


class PolicyRefusalError(DecisionNotAllowedError):
    """Report somebody who may not decide by the policy in force; `reason` says why."""

    def __init__(self, actor: str, role: str, kind: str, reason: str, rule: str | None) -> None:
        self.reason, self.rule = reason, rule
        DecisionError.__init__(
            self,
            f"{actor} ({role}) may not decide {kind} here: {reason} (policy rule {rule!r}). "
            "Nothing was changed.",
        )


class DecisionInputError(DecisionError, InvalidValueError):
    """Report a missing or wrong note, reason, result or confirmation."""


class PolicyFileError(ResumeEngineError):
    """Report a policy that cannot be read or used; nobody decides by it."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"The policy {source} cannot be used: {problem}.")


class PayloadError(ResumeEngineError):
    """Base of the reasons why a stored payload cannot be read or written."""


class PayloadLockedError(PayloadError):
    """Report an encrypted payload whose key is not here; nothing was written."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The payload is encrypted: {reason}. "
            "Start with RESUME_ENGINE_ENCRYPTION_KEYS set to the keys of this database."
        )


class PayloadUnreadableError(PayloadError):
    """Report a stored payload that no codec of this release can read."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"A stored payload cannot be read: {reason}. "
            "Install the release that wrote it, or restore a backup."
        )


class RemoteError(ResumeEngineError):
    """Base of what goes wrong between a remote store and its control plane."""


class RemoteAccessError(RemoteError):
    """Report a key that the control plane does not take, or whose role is too low."""


class RemoteTooLargeError(RemoteError):
    """Report a request that is larger than the control plane takes; nothing of it was written."""


class RemoteUnreachableError(RemoteError, ConnectionError):
    """Report a control plane that did not answer. (A ConnectionError too: waiting may help.)"""


class RemoteUnsupportedError(RemoteError):
    """Report a call that this control plane does not know."""


class SyncConflictError(RemoteError):
    """Report a run that is no longer forwarded, because here and there contradict each other."""

    def __init__(self, run_id: str, reason: str) -> None:
        self.run_id = run_id
        self.reason = reason
        super().__init__(
            f"Run {run_id} is no longer forwarded to the control plane: {reason} "
            "What is recorded here is kept; when the cause is gone, call retry_conflict(run_id)."
        )


class SchemaError(ResumeEngineError):
    """Base of the reasons why a database cannot be used with this release."""


class SchemaOutdatedError(SchemaError):
    """Report a database written by an older release."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            f"The database schema is at {found}, this release needs {expected}. "
            "Make a backup, then run `resume-engine db upgrade --database URL`."
        )


class SchemaTooNewError(SchemaError):
    """Report a database written by a newer release."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            f"The database schema is at {found}, which this release does not know (it knows up to "
            f"{expected}). "
            "Install the newer release of resume_engine."
        )
