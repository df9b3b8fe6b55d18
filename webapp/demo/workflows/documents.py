"""Contracts: read, compared with the playbook, marked up and sent to a lawyer."""

from __future__ import annotations

from webapp.demo.workflows.definition import DemoWorkflow, number, partial, permanent, step, token, transient

DOCUMENTS = DemoWorkflow(
    name="document_review",
    team="legal",
    starts_with=lambda r: {
        "document": f"{r.choice(['NDA', 'MSA', 'DPA', 'SOW'])}-{number(r, '', 5)}.pdf",
        "counterparty": r.choice(["Brightwater Ltd", "Ferrum AG", "Oyelaran & Sons", "Kestrel Robotics"]),
    },
    steps=(
        step(
            "fetch_document",
            (0.5, 3),
            lambda r, s: {"bytes": r.randrange(80_000, 4_000_000), "sha256": token(r, "", 16)},
            permanent(
                "403 from the data room: the share was withdrawn",
                "Counterparty shared the folder again.",
                PermissionError,
            ),
        ),
        step("split_pages", (1, 4), lambda r, s: {"pages": r.randrange(4, 60)}),
        step(
            "extract_clauses",
            (8, 40),
            lambda r, s: {"clauses": r.randrange(18, 90)},
            transient("language model is overloaded (529), try again later"),
        ),
        step("compare_playbook", (5, 20), lambda r, s: {"deviations": r.randrange(0, 9)}),
        step(
            "summarise_risks",
            (6, 25),
            lambda r, s: {
                "risk": r.choice(["low", "medium", "high"]),
                "summary": "Liability is uncapped for data breaches; notice period is 30 days instead of 60.",
            },
        ),
        step("write_redline", (4, 16), lambda r, s: {"redline": token(r, "doc_", 8)}),
        step(
            "send_for_signature",
            (1, 4),
            lambda r, s: {"envelope": token(r, "env_")},
            partial(
                "envelope was sent, callback address was rejected",
                "Envelope voided in the signing service.",
                {"voided_envelope": "env_5d20b7c114"},
            ),
            transient("signing service: gateway timeout", TimeoutError),
        ),
        step("archive", (0.5, 2), lambda r, s: {"archived": True}),
    ),
)
