"""A PostgreSQL server that goes down without a word and comes up again."""

from __future__ import annotations

import os
import signal

from tests.provision.postgres import Databases, OwnServer


class UnsteadyServer(OwnServer):
    """A server of our own that a test may stop and start; its data outlive that."""

    def __init__(self) -> None:
        super().__init__()
        self.databases = Databases(self.url, f"re_unsteady_{os.getpid()}")

    def stop_immediately(self) -> None:
        """Let the server end as in a crash: no checkpoint, every connection cut."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def start_again(self) -> None:
        """Start the server; it recovers what was committed."""
        self._start()
