"""The recorded attempts of one run, a page at a time: 10,000 of them cost what 10 do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from flask import abort
from werkzeug.datastructures import MultiDict

from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.step_queries import AttemptMark, StepQueries, StepView

PAGE_SIZE = 50
BEFORE_THE_FIRST = -1
LARGEST = 999_999_999
"""No run has so many records; a larger number is a typing mistake, and no database takes any number."""


@dataclass(frozen=True, kw_only=True)
class StepsAsked:
    """Say which records the address asks for: those behind sequence `after`, perhaps only failed ones.

    `opened` is the record that is shown with its values.
    """

    after: int = BEFORE_THE_FIRST
    only_failed: bool = False
    opened: int | None = None


@dataclass(frozen=True, kw_only=True)
class StepsPage:
    """One page of records with the addresses around it (None where there is nothing)."""

    records: Sequence[AttemptMark]
    opened: StepView | None
    total: int
    only_failed: bool
    all: str
    failed: str
    first: str | None = None
    prev: str | None = None
    next: str | None = None
    last: str | None = None


def read(args: MultiDict[str, str]) -> StepsAsked:
    """Return what the address asks for; answers 400 with the parameter's name when it makes no sense."""
    failed = args.get("failed", "")
    if failed not in ("", "1"):
        abort(400, f"failed: found {failed[:40]!r}. Leave it out, or write failed=1 for failures only.")
    after, opened = _number(args, "after"), _number(args, "open")
    if after is None:
        after = BEFORE_THE_FIRST
    return StepsAsked(after=after, only_failed=failed == "1", opened=opened)


def _number(args: MultiDict[str, str], name: str) -> int | None:
    text = args.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST)) and int(text) <= LARGEST):
        abort(400, f"{name}: found {text[:40]!r}. It is the number of a record, for example {name}=49.")
    return int(text)


def load(queries: StepQueries, run: RunSummary, asked: StepsAsked) -> StepsPage:
    """Return the page that is asked for; one statement, one more when a record is to be opened."""
    found, more = queries.page_of_attempts(
        run.run_id, after=asked.after, limit=PAGE_SIZE, only_failed=asked.only_failed
    )
    opened = queries.load_step_view(run.run_id, asked.opened) if asked.opened is not None else None
    total = run.next_sequence
    begun = asked.after > BEFORE_THE_FIRST
    # Sequences have no gaps, so that earlier and last pages can be named without being read.
    earlier = max(BEFORE_THE_FIRST, asked.after - PAGE_SIZE)
    last = max(BEFORE_THE_FIRST, total - 1 - PAGE_SIZE)
    return StepsPage(
        records=found,
        opened=opened,
        total=total,
        only_failed=asked.only_failed,
        all=href(run.run_id),
        failed=href(run.run_id, only_failed=True),
        first=href(run.run_id, only_failed=asked.only_failed) if begun else None,
        prev=href(run.run_id, after=earlier) if begun and not asked.only_failed else None,
        next=href(run.run_id, after=found[-1].sequence, only_failed=asked.only_failed) if more else None,
        last=href(run.run_id, after=last) if more and not asked.only_failed else None,
    )


def href(run_id: str, *, after: int = BEFORE_THE_FIRST, only_failed: bool = False) -> str:
    """Return the address of a page of records."""
    words: dict[str, str | int] = {"tab": "steps"}
    if only_failed:
        words["failed"] = 1
    if after > BEFORE_THE_FIRST:
        words["after"] = after
    return f"/runs/{quote(run_id)}?{urlencode(words)}"


def record_href(run_id: str, sequence: int) -> str:
    """Return the address that opens one record in its place."""
    after = max(BEFORE_THE_FIRST, sequence - PAGE_SIZE // 2)
    words = [("tab", "steps"), *([("after", str(after))] if after >= 0 else []), ("open", str(sequence))]
    return f"/runs/{quote(run_id)}?{urlencode(words)}#record-{sequence}"
