"""The daily billing run: usage to invoices to charges to the ledger."""

from __future__ import annotations

from webapp.demo.workflows.definition import DemoWorkflow, number, partial, permanent, step, token, transient

BILLING = DemoWorkflow(
    name="billing_run",
    team="finance",
    starts_with=lambda r: {
        "batch": number(r, "BILL-", 5),
        "accounts": r.randrange(40, 900),
        "currency": r.choice(["EUR", "USD", "CHF"]),
    },
    steps=(
        step(
            "collect_usage", (5, 30), lambda r, s: {"usage_rows": int(s["accounts"]) * r.randrange(90, 400)}
        ),
        step(
            "price_usage",
            (3, 20),
            lambda r, s: {"net_total": round(int(s["accounts"]) * r.uniform(11, 48), 2)},
        ),
        step("create_invoices", (4, 18), lambda r, s: {"invoices": int(s["accounts"])}),
        step(
            "charge_cards",
            (8, 60),
            lambda r, s: {"charge_batch": token(r, "cb_"), "declined": r.randrange(0, 6)},
            transient("payment gateway timeout after 30 s (POST /v1/charges)", TimeoutError),
            permanent(
                "Invalid API key: the payment gateway answered 401",
                "API key rotated in the vault, verified with a test charge of 0.01.",
            ),
            partial(
                "214 of 388 cards charged, then the gateway closed the connection",
                "Gateway voided the charged part of the batch, report attached to the ticket.",
                {"voided_charges": 214, "gateway_ticket": "GW-88213"},
            ),
        ),
        step(
            "post_to_ledger",
            (1, 6),
            lambda r, s: {"ledger_entry": token(r, "le_"), "balanced": True},
            transient("could not obtain lock on table ledger_entries within 5 s"),
            permanent(
                "debit and credit differ by 0.01 EUR in cost centre 4410",
                "Rounding rule of cost centre 4410 corrected.",
                ValueError,
            ),
        ),
        step(
            "mail_receipts",
            (3, 15),
            lambda r, s: {"mailed": int(s["accounts"]) - int(s["declined"])},
            partial(
                "receipts handed to the mail service, delivery list was not saved",
                "Mail service dropped the queued receipts; nothing left the house.",
                {"queue_purged": True, "mails_dropped": 388},
            ),
        ),
        step("reconcile", (2, 9), lambda r, s: {"difference": 0, "report": token(r, "rep_", 8)}),
    ),
)
