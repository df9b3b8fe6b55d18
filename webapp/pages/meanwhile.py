"""What has become of a failure while somebody works in its form: told beside it, the form stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resume_engine.core.decisions import Decision, DecisionKind
from webapp.pages.gate_item import GateItem


@dataclass(frozen=True, kw_only=True)
class News:
    """What a page with a form has to be told; `mark` is what it sends when it asks again."""

    mark: str
    decided: Sequence[Decision]  # since the page was drawn
    open_forms: Sequence[DecisionKind]  # what can still be sent
    is_over: bool  # the form that was open decides nothing any more


def version_in(mark: str) -> str:
    """Return the version that the mark of a page (`GateItem.mark`) names, empty if it is none of ours."""
    return mark.rpartition("/")[0]


def tell(item: GateItem, version: str, mark: str) -> News:
    """Return what happened since the page that sent `mark` was drawn; that page's count is kept."""
    text = mark.rpartition("/")[2]
    seen = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    decided = item.decisions[seen:]
    forms = [form.kind for form in (item.form, item.rejection) if form is not None]
    kind = item.form.kind if item.form is not None else None
    return News(
        mark=f"{version}/{seen}",
        decided=decided,
        open_forms=forms,
        is_over=any(decision.kind is not kind for decision in decided) or kind is None,
    )
