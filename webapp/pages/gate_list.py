"""The queue's address: which runs it lists, which one is open, and the addresses that differ by one word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from resume_engine.core.errors import InvalidValueError
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_filter import CAUSE_CHARACTERS
from webapp.formats import first_line
from webapp.pages.list_address import Chip, asked, one_of, read_text, shown

PATH = "/gates"
WORDS = ("kind", "environment", "workflow", "cause", "cursor", "run", "failure")
"""Every parameter of the address, in the order in which it is written."""
FILTERS = ("kind", "environment", "workflow", "cause")
LABELS = {"environment": "Environment", "workflow": "Workflow", "cause": "Error"}


@dataclass(frozen=True, kw_only=True)
class GateListAddress:
    """Say what an address of the queue asks for; `run` and `failure` name the item that is open."""

    words: Mapping[str, str]
    kind: GateAction | None = None
    environment: Environment | None = None
    workflow: str | None = None
    cause: str | None = None
    cursor: Cursor | None = None
    run: str | None = None
    failure: str | None = None

    @property
    def filters(self) -> dict[str, str]:
        """Return every filter's text, empty where it is off, for the form."""
        return {name: self.words.get(name, "") for name in FILTERS}

    @property
    def is_filtered(self) -> bool:
        """Return whether any filter is on."""
        return any(self.filters.values())

    def href(self, **changes: str | None) -> str:
        """Return this queue's first page with some words changed and no item open; None takes a word away."""
        return href(**{**{n: t for n, t in self.filters.items() if t}, **changes})

    def item_href(self, run: RunSummary) -> str:
        """Return the address of this page of the queue with `run` open; it stays good after the decision."""
        key = run.failure.key if run.failure else None
        return self.href(cursor=self.words.get("cursor"), run=run.run_id, failure=key)

    def refresh_href(self, chosen: str | None, version: str) -> str:
        """Return the address of the list alone; the answer is empty while it is still at `version`."""
        kept = [(n, self.words[n]) for n in (*FILTERS, "cursor") if n in self.words]
        marks = [("run", chosen)] if chosen else []
        return f"{PATH}/queue?{urlencode([*kept, *marks, ('v', version)])}"

    def chips(self) -> list[Chip]:
        """Return the filters that are on; the kind is left to the tabs."""
        return [
            Chip(label=LABELS[name], value=shown(first_line(text)), without=self.href(**{name: None}))
            for name, text in self.filters.items()
            if text and name in LABELS
        ]


def href(**words: str | None) -> str:
    """Return an address of the queue, for example `href(kind="compensation", environment="prod")`."""
    given = [(name, words[name]) for name in WORDS if words.get(name)]
    return f"{PATH}?{urlencode(given)}" if given else PATH


def bulk_href(cause: str, address: GateListAddress | None = None) -> str:
    """Return the address where failures of one cause are approved together."""
    kept = [(n, address.words[n]) for n in ("environment", "workflow") if address and n in address.words]
    return f"{PATH}/approvals?{urlencode([('cause', cause), *kept])}"


def read(args: MultiDict[str, str]) -> GateListAddress:
    """Return what an address asks for; raise `InvalidValueError` rather than show other runs."""
    # Browsers send the line breaks of a hidden field as CR LF; messages hold LF.
    words = {name: args[name].replace("\r\n", "\n") for name in WORDS if args.get(name)}
    for name in words:
        if len(args.getlist(name)) > 1:
            raise InvalidValueError(name, "is given more than once. Keep one.")
        if name != "cursor":
            asked(words, name, read_text)
    return GateListAddress(
        words=words,
        kind=asked(words, "kind", one_of(GateAction)),
        environment=asked(words, "environment", one_of(Environment)),
        workflow=words.get("workflow"),
        cause=words.get("cause"),
        cursor=Cursor.decode(words["cursor"]) if "cursor" in words else None,
        run=words.get("run"),
        failure=words.get("failure"),
    )


def cause_of(run: RunSummary) -> str:
    """Return what names the cause of a run's failure in an address."""
    return run.failure.message[:CAUSE_CHARACTERS] if run.failure else ""
