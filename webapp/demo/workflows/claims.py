"""Insurance claims: from the incoming mail to the reserve in the ledger."""

from __future__ import annotations

from webapp.demo.workflows.definition import DemoWorkflow, number, partial, permanent, step, token, transient

CLAIMS = DemoWorkflow(
    name="claims_intake",
    team="claims",
    starts_with=lambda r: {
        "claim_id": number(r, "CLM-"),
        "policy": number(r, "POL-", 7),
        "channel": r.choice(["email", "portal", "broker"]),
        "loss": r.choice(["collision", "hail", "theft", "water"]),
        "attachments": r.randrange(1, 9),
    },
    steps=(
        step(
            "register_claim",
            (0.3, 1.2),
            lambda r, s: {"case": token(r, "case_", 8), "priority": r.choice(["low", "normal", "high"])},
        ),
        step(
            "validate_policy",
            (0.8, 3),
            lambda r, s: {"policy_status": "active", "deductible": r.choice([150, 300, 500])},
            transient("policy service did not answer within 10 s", TimeoutError),
            permanent(
                "policy number has no match in POLCORE: neither in force nor lapsed",
                "Broker had transposed two digits; alias added in POLCORE.",
            ),
        ),
        step(
            "read_documents",
            (6, 45),
            lambda r, s: {"pages": r.randrange(2, 40), "ocr_confidence": round(r.uniform(0.86, 0.995), 3)},
            transient("OCR queue is full: 429 Too Many Requests, retry after 20 s"),
            permanent(
                "attachment 3 is an encrypted PDF: no text can be read",
                "Customer sent the file again without a password.",
            ),
        ),
        step(
            "extract_entities",
            (4, 20),
            lambda r, s: {
                "entities": {
                    "vehicle": r.choice(["VW Golf", "Skoda Octavia", "Fiat 500"]),
                    "place": r.choice(["Lyon", "Graz", "Porto", "Gdansk"]),
                }
            },
        ),
        step(
            "score_fraud",
            (1, 6),
            lambda r, s: {"fraud_score": round(r.betavariate(2, 12), 3)},
            transient("model endpoint returned 503: no healthy upstream", ConnectionError),
        ),
        step(
            "estimate_damage", (3, 15), lambda r, s: {"estimate": r.randrange(350, 9_800), "currency": "EUR"}
        ),
        step(
            "check_coverage",
            (0.5, 2),
            lambda r, s: {"covered": True, "payable": max(0, int(s["estimate"]) - int(s["deductible"]))},
            permanent(
                "Invalid API key: coverage rules service answered 401",
                "API key rotated, call verified with a test claim.",
            ),
        ),
        step(
            "assign_adjuster",
            (0.3, 1),
            lambda r, s: {"adjuster": r.choice(["h.brandt", "l.moreau", "s.okafor"])},
        ),
        step(
            "reserve_funds",
            (1, 4),
            lambda r, s: {"reserve": token(r, "res_")},
            partial(
                "reserve booked at the bank, ledger write failed: deadlock detected",
                "Reserve released at the bank, checked against today's statement.",
                {"released_reserve": "res_71be04c2aa", "amount_restored": True},
            ),
            transient("ledger database: connection reset by peer", ConnectionError),
        ),
        step(
            "notify_claimant",
            (0.5, 3),
            lambda r, s: {"message": token(r, "msg_"), "sent": True},
            partial(
                "Email sent but DB write failed: could not record message id",
                "Mail recalled, customer informed by phone.",
                {"reverted_email_id": "msg_20c9e1f4b7"},
            ),
        ),
        step("write_audit_entry", (0.2, 1), lambda r, s: {"audit_entry": token(r, "ae_", 8)}),
        step("close_intake", (0.2, 0.8), lambda r, s: {"state": "open for settlement"}),
    ),
)
