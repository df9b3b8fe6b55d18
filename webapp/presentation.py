"""Words, icons and colours of everything people see: one table each, read by every template.

A tone is a colour of `static/app.css` (`--green`, `--amber`, ...), an icon is a symbol of
`templates/components/sprite.html`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flask import Flask, request
from jinja2.runtime import Macro

from resume_engine.core.clock import utc_now
from resume_engine.core.step_record import COMPENSATION_PREFIX
from webapp import formats, json_view, timeline

THEMES = ("system", "light", "dark")
THEME_COOKIE = "theme"


@dataclass(frozen=True, kw_only=True)
class Look:
    """Say how one word of the domain is shown; `sentence` explains it to somebody who never saw it."""

    label: str
    icon: str
    tone: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class GateLook(Look):
    """Say how one kind of gate is shown; `button` names the act, `done` says it happened."""

    needs: str
    button: str
    done: str


STATES: dict[str, Look] = {
    "pending": Look(
        label="pending",
        icon="circle",
        tone="grey",
        sentence="Created, not started yet: no runner has taken it.",
    ),
    "running": Look(label="running", icon="half", tone="blue", sentence="A runner is working on it now."),
    "completed": Look(label="completed", icon="check", tone="green", sentence="Every step is done."),
    "failed": Look(
        label="failed",
        icon="cross",
        tone="red",
        sentence="A step failed for a passing cause. It is retried; nobody has to decide anything.",
    ),
    "blocked": Look(
        label="blocked",
        icon="hand",
        tone="amber",
        sentence="Stopped until a person decides what happens next.",
    ),
    "cleared": Look(
        label="cleared",
        icon="arrow",
        tone="violet",
        sentence="A person decided; it waits for a runner to resume it.",
    ),
    "interrupted": Look(
        label="interrupted",
        icon="broken",
        tone="amber",
        sentence=(
            "Its runner went silent in the middle of a step. Whether that step took effect is unknown. "
            "A worker takes the run over; if none does, no worker knows this workflow."
        ),
    ),
    "cancelled": Look(
        label="cancelled", icon="bar", tone="grey", sentence="Rejected by a person. It never runs again."
    ),
}

STEP_STATES: dict[str, Look] = {
    "pending": STATES["pending"],
    "running": STATES["running"],
    "completed": STATES["completed"],
    "failed": Look(label="failed", icon="cross", tone="red", sentence="This attempt ended with an error."),
    "skipped_replay": Look(
        label="replayed",
        icon="check",
        tone="green",
        sentence="Output taken from an earlier record; not run again.",
    ),
}

GATES: dict[str, GateLook] = {
    "human_approval": GateLook(
        label="approval",
        needs="needs approval",
        button="Approve",
        done="Approved",
        icon="hand",
        tone="amber",
        sentence="A step failed for good. It runs again only when a person says so.",
    ),
    "compensation": GateLook(
        label="compensation",
        needs="needs compensation",
        button="Record compensation",
        done="Compensation recorded",
        icon="undo",
        tone="amber",
        sentence="A step failed half-way. What it already did has to be undone before it may run again.",
    ),
    "prod_resume_ack": GateLook(
        label="prod acknowledgement",
        needs="needs prod acknowledgement",
        button="Acknowledge prod resume",
        done="Prod resume acknowledged",
        icon="shield",
        tone="amber",
        sentence="Resuming a run in prod has to be acknowledged by a person.",
    ),
    "reject": GateLook(
        label="rejection",
        needs="",
        button="Reject",
        done="Rejected",
        icon="bar",
        tone="red",
        sentence="Cancels the run for good: nobody can resume it. What it already did stays as it is.",
    ),
}
OPEN_GATES = ("compensation", "human_approval", "prod_resume_ack")
"""The kinds that can block a run, in the order in which a person meets them."""

FAILURES: dict[str, Look] = {
    "transient": Look(
        label="transient", icon="retry", tone="grey", sentence="A passing cause: retried without a person."
    ),
    "permanent": Look(
        label="permanent", icon="cross", tone="red", sentence="Trying again does not help: needs an approval."
    ),
    "partial": Look(
        label="partial", icon="half", tone="red", sentence="Some side effects happened: needs a compensation."
    ),
}

EVENTS: dict[str, str] = {
    "run.started": "started the run",
    "run.updated": "updated the run",
    "run.resumed": "resumed the run",
    "run.resume_validated": "checked that the run may resume",
    "run.interrupted": "found the run interrupted",
    "run.workflow_changed": "resumed with changed steps",
    "run.input_changed": "resumed with a changed input",
    "run.rolling_back": "began to roll the run back",
    "run.rolled_back": "rolled the run back",
    "run.completed": "completed the run",
    "run.collected": "deleted finished runs",
    "run.failed": "closed the run as failed",
    "step.recorded": "recorded a step",
    "gate.compensated": "recorded a compensation",
    "gate.approved": "approved",
    "gate.prod_resume_ack": "acknowledged a prod resume",
    "gate.rejected": "rejected the run",
    "gate.expired": "found a decision over: the gate is closed again",
    "gate.refused": "was refused a decision",
    "auth.signed_in": "signed in",
    "auth.sign_in_failed": "failed to sign in",
    "auth.signed_out": "signed out",
    "auth.confirmed": "gave the password again",
    "auth.confirm_failed": "gave a wrong password",
    "auth.sessions_ended": "ended sessions",
    "access.denied": "was refused access",
    "access.foreign": "was refused: not from our pages",
    "user.created": "added a person",
    "user.role_changed": "changed a role",
    "user.disabled": "disabled a person",
    "user.enabled": "enabled a person",
    "user.password_changed": "changed a password",
    "user.link_created": "made a sign-in link",
    "key.created": "made an API key",
    "key.rotated": "rotated an API key",
    "key.revoked": "revoked an API key",
    "key.refused": "was refused: its key does not work",
    "audit.chain_started": "chained what was recorded before",
    "audit.exported": "exported the audit log",
    "audit.verified": "verified the audit log",
    "payload.revealed": "looked at a masked value",
}

_TOLD = (
    "message",
    "step_name",
    "error_message",
    "workflow_name",
    "environment",
    "status_before",
    "status",
    "email",
    "name",
    "key_id",
    "reason",
    "sent_by",
    "role_before",
    "role",
    "purpose",
    "sessions",
    "method",
    "path",
    "what",
    "format",
    "address",
)
"""What of an event's payload is worth a line, in the order in which it reads well."""

_UNKNOWN = Look(
    label="unknown", icon="circle", tone="grey", sentence="This word is not known to this version."
)


def look(table: Mapping[str, Look], word: object) -> Look:
    """Return how `word` is shown; an unknown word is shown as itself, in grey."""
    found = table.get(str(word))
    if found is not None:
        return found
    return Look(label=str(word), icon=_UNKNOWN.icon, tone=_UNKNOWN.tone, sentence=_UNKNOWN.sentence)


def gate_look(kind: object) -> GateLook:
    """Return how a gate of `kind` is shown; an unknown kind gets no button."""
    known = GATES.get(str(kind))
    if known is not None:
        return known
    word = str(kind).replace("_", " ")
    return GateLook(
        label=word,
        needs=f"needs {word}",
        button="",
        done=word,
        icon="hand",
        tone="amber",
        sentence=_UNKNOWN.sentence,
    )


def event_words(event_type: object) -> str:
    """Return what an audit event says, as a verb phrase behind the actor's name."""
    word = str(event_type)
    return EVENTS.get(word) or word.replace(".", " ").replace("_", " ")


def event_details(event: Any) -> str:
    """Return what an audit event says beyond actor and act, on one line: its note, else what it was about."""
    if event.note:
        return formats.first_line(event.note)
    told = [event.payload.get(key) for key in _TOLD if isinstance(event.payload.get(key), str | int)]
    filters = event.payload.get("filter")
    if isinstance(filters, dict):
        told += [f"{name} {text}" for name, text in filters.items()]
    return formats.first_line(" · ".join(str(word) for word in told if word != ""))


def allows(kind: object, failure: Any, briefly: bool = False) -> str:
    """Return what the button of `kind` lets happen after `failure`; `briefly`: no word on earlier steps."""
    step = f"step {failure.step_index}" if failure else "the failed step"
    if failure and failure.step_name.startswith(COMPENSATION_PREFIX):
        return _undoing(str(kind), step) or gate_look(kind).sentence
    earlier = "" if briefly else _not_repeated(failure.step_index if failure else 0)
    sentence = {
        "human_approval": f"Lets {step} run again with the recorded input and the same idempotency key.",
        "compensation": f"Records that what {step} did before it failed is undone. Then it may run again.",
        "prod_resume_ack": f"Lets this run go on in prod, at {step}.",
    }.get(str(kind))
    return f"{sentence} {earlier}".rstrip() if sentence else gate_look(kind).sentence


def _undoing(kind: str, step: str) -> str | None:
    """Return what a button lets happen while a run is rolling back."""
    if kind == "human_approval":
        return f"Lets the compensation of {step} run again. Then the run goes on rolling back."
    return f"Lets this run go on rolling back in prod, at {step}." if kind == "prod_resume_ack" else None


def _not_repeated(step_index: int) -> str:
    if step_index <= 0:
        return "No step was completed before it."
    if step_index == 1:
        return "Step 0 is not repeated."
    return f"Steps 0 to {step_index - 1} are not repeated."


def chosen_theme() -> str:
    """Return the theme of the request's cookie; anything unknown means the system's."""
    theme = request.cookies.get(THEME_COOKIE, "")
    return theme if theme in THEMES else "system"


@lru_cache(maxsize=4_096)
def once(macro: Macro, *arguments: object) -> str:
    """Return what a macro renders, remembered: for macros whose text hangs on their arguments alone.

    A list shows the same few badges fifty times, and each is several macros deep.
    """
    return macro(*arguments)


FILTERS = {
    "age": formats.age_of,
    "ago": formats.ago,
    "bytes_size": formats.bytes_size,
    "compact": formats.compact,
    "duration": formats.duration,
    "event_details": event_details,
    "event_words": event_words,
    "executor": formats.executor,
    "first_line": formats.first_line,
    "gate_look": gate_look,
    "iso": formats.iso,
    "json_preview": json_view.preview,
    "json_size": json_view.size,
    "json_tokens": json_view.tokens,
    "plural": formats.plural,
    "short_id": formats.short_id,
    "utc": formats.utc,
    "visible": json_view.visible,
    "utc_clock": formats.utc_clock,
}


def register(app: Flask) -> None:
    """Give every template of `app` the filters and tables of this module."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True  # indentation is for us, not for the wire
    app.jinja_env.filters.update(FILTERS)
    app.jinja_env.tests["masked"] = json_view.is_masked
    app.jinja_env.globals.update(
        STATES=STATES,
        STEP_STATES=STEP_STATES,
        GATES=GATES,
        OPEN_GATES=OPEN_GATES,
        FAILURES=FAILURES,
        THEMES=THEMES,
        look=look,
        allows=allows,
        once=once,
        draw_timeline=timeline.draw,
        utc_now=utc_now,
    )
    app.context_processor(lambda: {"theme": chosen_theme(), "now": utc_now()})
