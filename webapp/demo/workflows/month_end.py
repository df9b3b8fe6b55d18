"""Month-end close. Its runner is another team's and not part of the demo: cleared runs wait for it."""

from __future__ import annotations

from webapp.demo.workflows.definition import DemoWorkflow, permanent, step, token

MONTH_END = DemoWorkflow(
    name="month_end_close",
    team="finance",
    starts_with=lambda r: {"entity": r.choice(["AT01", "DE02", "CH01"]), "period": r.randrange(1, 13)},
    steps=(
        step("freeze_postings", (1, 3), lambda r, s: {"frozen": True}),
        step("accrue_costs", (10, 40), lambda r, s: {"accruals": r.randrange(20, 120)}),
        step(
            "revalue_currencies",
            (5, 20),
            lambda r, s: {"rates": token(r, "fx_", 6)},
            permanent(
                "no closing rate for CHF on the last day of the period",
                "Rate of the central bank entered by hand.",
                ValueError,
            ),
        ),
        step("post_intercompany", (5, 25), lambda r, s: {"postings": r.randrange(10, 60)}),
        step("publish_balance", (2, 6), lambda r, s: {"balance": token(r, "bal_")}),
    ),
)
