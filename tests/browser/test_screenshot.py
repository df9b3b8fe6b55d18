"""The picture in the README, taken from the real queue. `make screenshot` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask

from tests.browser.conftest import Visit
from tests.factories import RunFactory, ago, at
from tests.webapp.helpers import give_password
from webapp.accounts.records import Person

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "gates.png"
NIGHT = (
    (7.2, "permanent", "claims_intake", "prod", "Invalid API key: the gateway rejected merchant 4471"),
    (5.1, "partial", "billing_run", "prod", "Invoice 20931 was mailed, the ledger entry was not written"),
    (3.4, "permanent", "content_pipeline", "staging", "Image model refused the prompt: policy 4.2"),
    (2.2, "partial", "crm_data_sync", "dev", "412 of 900 contacts were written before the connection closed"),
    (0.9, "transient", "billing_run", "prod", "payment gateway did not answer within 30 s"),
)
CLAIM = {
    "claim_id": "c-1093",
    "amount": 1204.5,
    "currency": "EUR",
    "customer": {"name": "Zoë Öz", "vip": True},
}


def test_the_queue_as_the_readme_shows_it(
    app: Flask, people: dict[str, Person], runs: RunFactory, visit: Visit, tmp_path: Path
) -> None:
    give_password(app, people["ana"])
    for hours, kind, workflow, environment, message in NIGHT:
        with at(ago(hours=hours)):
            runs.blocked(
                kind, workflow=workflow, environment=environment, message=message, initial_input=CLAIM
            )
    ana = visit("ana", device_scale_factor=2)
    ana.open("/gates")
    ana.sees("Why it stopped")
    for _, _, _, _, message in NIGHT:
        ana.sees(message)
    wanted = PICTURE if os.environ.get("WRITE_SCREENSHOT") else tmp_path / "gates.png"
    ana.page.screenshot(path=wanted)
    assert wanted.stat().st_size > 20_000
    assert PICTURE.exists(), "run `make screenshot` and commit the picture"
