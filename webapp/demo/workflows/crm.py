"""The CRM: accounts, contacts and deals pulled over page by page, forty steps in all."""

from __future__ import annotations

from random import Random

from webapp.demo.workflows.definition import (
    DemoStep,
    DemoWorkflow,
    State,
    number,
    partial,
    permanent,
    step,
    token,
    transient,
)

PAGES = {"accounts": 14, "contacts": 14, "deals": 8}

_RATE_LIMIT = transient("CRM answered 429: daily limit of the sandbox reached, retry after 60 s")
_SCHEMA = permanent(
    "field 'region__c' is unknown: the CRM's schema has changed",
    "Mapping updated: region__c is sales_region now.",
    ValueError,
)


def _page(entity: str, page: int) -> DemoStep:
    def pulled(r: Random, state: State) -> State:
        return {
            "rows": int(state.get("rows", 0)) + r.randrange(180, 201),
            "cursor": token(r, f"{entity[:3]}_", 6),
        }

    faults = (_RATE_LIMIT,) if page % 4 == 3 else (_SCHEMA,) if page == 6 else ()
    return step(f"sync_{entity}_{page:02d}", (2, 9), pulled, *faults)


CRM = DemoWorkflow(
    name="crm_data_sync",
    team="data",
    starts_with=lambda r: {"tenant": r.choice(["north", "south", "overseas"]), "since": number(r, "lsn-", 7)},
    steps=(
        step(
            "open_snapshot",
            (1, 4),
            lambda r, s: {"snapshot": token(r, "snap_")},
            transient("CRM: TLS handshake timed out", TimeoutError),
        ),
        *(_page(entity, page) for entity, pages in PAGES.items() for page in range(1, pages + 1)),
        step("merge_duplicates", (5, 25), lambda r, s: {"merged": r.randrange(3, 90)}),
        step(
            "write_warehouse",
            (6, 30),
            lambda r, s: {"load": token(r, "load_"), "rows_written": s["rows"]},
            partial(
                "2 of 3 tables swapped, then the warehouse connection was lost",
                "Tables swapped back to the previous load, row counts compared.",
                {"tables_restored": ["accounts", "contacts"]},
            ),
            transient("warehouse is resuming from suspension", ConnectionError),
        ),
        step("close_snapshot", (0.5, 2), lambda r, s: {"released": True}),
    ),
)
