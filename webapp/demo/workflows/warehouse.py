"""The nightly load of the data warehouse, source by source."""

from __future__ import annotations

from webapp.demo.workflows.definition import DemoStep, DemoWorkflow, number, permanent, step, token, transient

SOURCES = ("orders", "payments", "shipments", "returns", "tickets", "web_events")


def _source(name: str) -> tuple[DemoStep, ...]:
    rows = f"{name}_rows"
    return (
        step(
            f"extract_{name}",
            (5, 40),
            lambda r, s: {rows: r.randrange(900, 90_000)},
            transient(f"replica of {name} lags 14 minutes behind, limit is 10"),
        ),
        step(
            f"load_{name}",
            (4, 30),
            lambda r, s: {f"{name}_load": token(r, "load_", 8)},
            permanent(
                f"column {name}.amount: value 'n/a' is not a number",
                "Source system patched, row corrected at the origin.",
                ValueError,
            ),
        ),
    )


WAREHOUSE = DemoWorkflow(
    name="warehouse_load",
    team="data",
    starts_with=lambda r: {"partition": number(r, "day_", 5), "full_reload": False},
    steps=(
        step("lock_partition", (0.2, 1), lambda r, s: {"lock": token(r, "lk_", 6)}),
        *(part for name in SOURCES for part in _source(name)),
        step("build_marts", (20, 90), lambda r, s: {"marts": 11}),
        step("check_quality", (5, 20), lambda r, s: {"checks": 148, "failed_checks": 0}),
        step("unlock_partition", (0.2, 1), lambda r, s: {"lock": None}),
    ),
)
