"""How a page of runs is asked for, so that it costs the same among two thousand runs and among millions.

Every list walks an index that is in the order of the list and holds little beside what is wanted; it ends
after a page. PostgreSQL finds that index by its statistics. SQLite has none (nobody runs ANALYZE on a small
file that grew), so there the statement names the index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Select, and_, func, literal, select, tuple_, union

from resume_engine.core import clock
from resume_engine.core.run_summary import RunState
from resume_engine.storage import run_rows
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_filter import Condition, RunFilter, conditions
from resume_engine.storage.schema import UtcDateTime, runs

FEW_IDS = 500
"""Up to so many runs are sorted after they were found by the beginning of their id."""

_MANY_NAMES = 20  # from here on one walk over all runs is cheaper than one for each name
_LONGEST_ID = 36
_ID_KEY = "sqlite_autoindex_runs_1"
_HINTED = "sqlite"

StartsWith = Callable[[Any, str], Condition]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Which part of an ordered list is wanted: `limit` rows from `cursor` on, in the direction it points."""

    cursor: Cursor | None
    limit: int
    newest_first: bool = True

    @property
    def descending(self) -> bool:
        """Return whether rows are read from the latest to the earliest."""
        backwards = self.cursor is not None and self.cursor.backwards
        return self.newest_first != backwards

    def cut(self, query: Select[Any], moment: Any, row_id: Any) -> Select[Any]:
        """Return `query` in the order of these two columns, from the cursor on."""
        if self.cursor is not None:
            row = tuple_(moment, row_id)
            here = tuple_(literal(self.cursor.moment, UtcDateTime), literal(self.cursor.row_id))
            query = query.where(row < here if self.descending else row > here)
        return self.in_order(query, moment, row_id)

    def in_order(self, query: Select[Any], moment: Any, row_id: Any) -> Select[Any]:
        """Return `query` in the order of these two columns, cut to the limit."""
        keys = (moment.desc(), row_id.desc()) if self.descending else (moment.asc(), row_id.asc())
        return query.order_by(*keys).limit(self.limit)


def blocked_query(found: Sequence[Condition], stretch: Stretch) -> Select[Any]:
    """Return the statement for runs that wait for a person, in the order in which they began to wait."""
    query = select(*run_rows.SUMMARY_COLUMNS).where(runs.c.blocked_by.is_not(None), *found)
    return by_index(stretch.cut(query, runs.c.blocked_since, runs.c.run_id), "ix_runs_blocked_since")


def list_query(wanted: RunFilter, stretch: Stretch) -> Select[Any]:
    """Return the statement for a page of runs; `search` is not looked at."""
    return _walk(wanted, (), stretch, run_rows.SUMMARY_COLUMNS)


def search_query(
    wanted: RunFilter,
    names: Sequence[str],
    stretch: Stretch,
    *,
    starts_with: StartsWith,
    few_ids: bool,
) -> Select[Any]:
    """Return the statement for a page of runs that `search` finds.

    Each workflow name that the search occurs in, and the beginning of the id, is a walk of its own that
    ends after a page; an OR would have to read and sort all their runs. `few_ids` says that the beginning
    of the id picks few runs out of all.
    """
    search = wanted.search_text
    hits = [name for name in names if search.casefold() in name.casefold()]
    if len(hits) == len(names) or wanted.workflow in hits:
        return list_query(wanted, stretch)
    keys = (runs.c.run_id, runs.c.created_at)
    walks = [_id_walk(wanted, search, stretch, keys, starts_with, few_ids)]
    if wanted.workflow is None:
        walks += [_walk(part, extra, stretch, keys) for part, extra in _name_parts(wanted, hits)]
    found = union(*(select(*walk.subquery().c) for walk in walks)).subquery()
    page = stretch.in_order(select(*found.c), found.c.created_at, found.c.run_id).subquery()
    query = select(*run_rows.SUMMARY_COLUMNS).join(page, page.c.run_id == runs.c.run_id)
    return stretch.in_order(query, page.c.created_at, page.c.run_id)


def few_ids_query(search: str, starts_with: StartsWith) -> Select[Any]:
    """Return the statement that counts runs by the beginning of their id, up to one more than few."""
    found = select(literal(1)).where(_begins_with(search, starts_with)).limit(FEW_IDS + 1)
    return select(func.count()).select_from(found.subquery())


def _name_parts(wanted: RunFilter, hits: Sequence[str]) -> list[tuple[RunFilter, tuple[Condition, ...]]]:
    if len(hits) > _MANY_NAMES:
        return [(wanted, (runs.c.workflow_name.in_(hits),))]
    return [(replace(wanted, workflow=name), ()) for name in hits]


def _id_walk(
    wanted: RunFilter,
    search: str,
    stretch: Stretch,
    columns: Sequence[Any],
    starts_with: StartsWith,
    few_ids: bool,
) -> Select[Any]:
    condition = _begins_with(search, starts_with)
    if not few_ids:
        return _walk(wanted, (condition,), stretch, columns)
    query = select(*columns).where(condition, *conditions(wanted, clock.utc_now()))
    return by_index(stretch.cut(query, runs.c.created_at, runs.c.run_id), _ID_KEY)


def _begins_with(search: str, starts_with: StartsWith) -> Condition:
    if len(search) > _LONGEST_ID or "\x00" in search:
        return and_(runs.c.run_id.is_(None))
    return starts_with(runs.c.run_id, search)


def _walk(
    wanted: RunFilter, extra: Sequence[Condition], stretch: Stretch, columns: Sequence[Any]
) -> Select[Any]:
    query = select(*columns).where(*conditions(wanted, clock.utc_now()), *extra)
    return by_index(stretch.cut(query, runs.c.created_at, runs.c.run_id), _index_for(wanted))


def _index_for(wanted: RunFilter) -> str:
    """Return the index that holds the fewest runs beside those a filter wants."""
    if wanted.blocked_by is not None or wanted.state is RunState.BLOCKED:
        return "ix_runs_blocked_created"
    if wanted.classification is not None or wanted.error_type or wanted.message_start:
        return "ix_runs_failing_created"
    if wanted.state is not None:
        return "ix_runs_workflow_open" if wanted.workflow else "ix_runs_open_created"
    if wanted.workflow:
        return "ix_runs_workflow_created"
    return "ix_runs_environment_created" if wanted.environment is not None else "ix_runs_created"


def by_index(query: Select[Any], index: str) -> Select[Any]:
    """Return `query` with the index of `runs` named that SQLite is to use."""
    return query.with_hint(runs, f"INDEXED BY {index}", _HINTED)
