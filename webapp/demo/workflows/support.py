"""Support tickets: three steps, many runs."""

from __future__ import annotations

from webapp.demo.workflows.definition import DemoWorkflow, number, partial, permanent, step, token, transient

SUPPORT = DemoWorkflow(
    name="support_triage",
    team="support",
    starts_with=lambda r: {
        "ticket": number(r, "T-"),
        "subject": r.choice(
            [
                "Refund has not arrived",
                "Cannot sign in",
                "Invoice shows the wrong address",
                "App crashes on start",
            ]
        ),
    },
    steps=(
        step(
            "classify_ticket",
            (1, 5),
            lambda r, s: {"queue": r.choice(["billing", "access", "product"]), "urgency": r.randrange(1, 5)},
            transient("language model is overloaded (529), try again later"),
        ),
        step(
            "draft_reply",
            (4, 20),
            lambda r, s: {"reply": token(r, "rpl_", 8)},
            permanent(
                "knowledge base answered 401: the key was revoked",
                "New key for the knowledge base in place.",
            ),
        ),
        step(
            "send_reply",
            (0.5, 2),
            lambda r, s: {"message": token(r, "msg_")},
            partial(
                "reply was sent twice before the helpdesk answered 500",
                "Second reply deleted, customer got an apology.",
                {"deleted_message": "msg_0b7fd2c951"},
            ),
        ),
    ),
)
