"""New customers: identity, screening, account."""

from __future__ import annotations

from webapp.demo.workflows.definition import DemoWorkflow, number, partial, permanent, step, token, transient

ONBOARDING = DemoWorkflow(
    name="customer_onboarding",
    team="compliance",
    starts_with=lambda r: {
        "applicant": number(r, "APP-"),
        "country": r.choice(["AT", "DE", "FR", "NL", "PT"]),
        "kind": r.choice(["person", "company"]),
    },
    steps=(
        step("receive_application", (0.2, 1), lambda r, s: {"received": True}),
        step(
            "verify_identity",
            (5, 30),
            lambda r, s: {"identity": "verified", "liveness": round(r.uniform(0.9, 0.999), 3)},
            transient("identity provider: 502 Bad Gateway", ConnectionError),
        ),
        step(
            "screen_sanctions",
            (1, 5),
            lambda r, s: {"hits": 0, "list_version": r.randrange(400, 420)},
            permanent(
                "possible match on a sanctions list: score 0.91, a person must decide",
                "False positive: other date of birth, documented in the case file.",
            ),
        ),
        step("score_risk", (0.5, 2), lambda r, s: {"risk_class": r.choice(["A", "B", "C"])}),
        step(
            "open_account",
            (1, 4),
            lambda r, s: {"account": token(r, "acc_")},
            partial(
                "account opened in core banking, CRM record was not written",
                "Account closed again in core banking.",
                {"closed_account": "acc_9917d0e3fa"},
            ),
        ),
        step("send_welcome", (0.3, 2), lambda r, s: {"message": token(r, "msg_")}),
    ),
)
