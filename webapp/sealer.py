"""The thread of a server that seals the audit, and looks once a day whether anybody rewrote it.

That it fails or lags behind stops nothing: the page of the audit says so, and the next turn makes up for it.
The same thread closes gates again whose decisions ended unused.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta

from resume_engine.core.chain_report import Verdict
from resume_engine.core.clock import monotonic, utc_now
from resume_engine.storage.audit_state import load_audit_state, record_verification
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.ended_decisions import close_ended
from resume_engine.storage.sealing import Sealer
from resume_engine.storage.signing import Signer
from resume_engine.storage.sql_store import SqlCheckpointStore

SEAL_EVERY_SECONDS = 60.0
SEAL_AFTER_ENTRIES = 1_000
LOOK_EVERY_SECONDS = 5.0
VERIFY_EVERY = timedelta(hours=24)
FULL_EVERY_TURNS = 60
"""So often every stream is looked at, whatever the ids of new rows say."""
_REST_SECONDS = 0.02

logger = logging.getLogger(__name__)


class AuditSealer(threading.Thread):
    """Seal every minute or thousand entries until `stop` is called; a daemon, so that it keeps no process."""

    def __init__(self, store: SqlCheckpointStore, signer: Signer) -> None:
        super().__init__(name="audit-sealer", daemon=True)
        self._store, self._signer = store, signer
        self._sealer = Sealer(store, signer)
        self._stopped = threading.Event()
        self._sealed_at: float | None = None
        self._turns = 0

    def stop(self) -> None:
        """End the thread after what it is doing."""
        self._stopped.set()
        self.join(timeout=10)

    def run(self) -> None:
        """Take turns until stopped; what goes wrong is logged, and tried again at the next turn."""
        while not self._stopped.wait(LOOK_EVERY_SECONDS):
            try:
                close_ended(self._store)
            except Exception:
                logger.warning("gates whose decisions ended stay open; it is tried again", exc_info=True)
            try:
                self.turn()
            except Exception:
                logger.warning("the audit could not be sealed or verified; it is tried again", exc_info=True)

    def turn(self) -> None:
        """Seal what is due, then verify if the last time was long ago."""
        now = monotonic()
        due = self._sealed_at is None or now - self._sealed_at >= SEAL_EVERY_SECONDS
        everything = due and self._turns % FULL_EVERY_TURNS == 0
        made = self._sealer.seal(everything=everything, leave_fewer_than=1 if due else SEAL_AFTER_ENTRIES)
        if due or made is not None:
            self._sealed_at = now
            self._turns += 1
        self._verify_when_due()

    def _verify_when_due(self) -> None:
        last = load_audit_state(self._store).verified
        if last is not None and utc_now() - last.at < VERIFY_EVERY:
            return
        verifier = ChainVerifier(self._store, key=self._signer, progress=lambda _: time.sleep(_REST_SECONDS))
        report = verifier.verify_all()
        if report.verdict is Verdict.TAMPERED:
            logger.error("the audit was tampered with: %s", report.findings[0])
        record_verification(self._store, report)
