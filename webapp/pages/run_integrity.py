"""Whether anybody rewrote the record of one run."""

from __future__ import annotations

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from resume_engine.core.permissions import Permission
from resume_engine.storage.chain_verification import ChainVerifier
from webapp.extensions import audit_signer, current_store
from webapp.pages.run_detail import summary_or_404
from webapp.permissions import requires

blueprint = Blueprint("run_integrity", __name__)


@blueprint.get("/runs/<path:run_id>/integrity")
@requires(Permission.AUDIT_READ)
def show(run_id: str) -> ResponseReturnValue:
    """Verify the chain of a run now, against itself and the checkpoints that sealed it."""
    run = summary_or_404(run_id)
    report = ChainVerifier(current_store(), key=audit_signer()).verify_run(run.run_id)
    return render_template("runs/integrity.html", run=run, report=report)
