"""How gunicorn runs the workers of `resume-engine serve`; it reads the names of this module."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker
from prometheus_client.multiprocess import mark_process_dead

from webapp.extensions import services
from webapp.logs import configure
from webapp.metrics import SHARED_FOLDER
from webapp.sealer import AuditSealer
from webapp.serving import BACKLOG, STOP_SECONDS, THREADS, settle
from webapp.settings import Settings

settings = Settings.from_environment()

SILENCE_SECONDS = 10.0
"""So long a thread waits for the next bytes of a request; answers may take longer to be fetched."""
HANG_UP_SECONDS = 2.0


class OneLog(Logger):
    """Gunicorn's own words go where those of the application go, in the same form."""

    def setup(self, cfg: Any) -> None:
        """Send everything to the log of the process."""
        configure(settings.log_level, settings.log_format)
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Say what failed; that somebody fell silent in the middle of a request is no failure of ours."""
        if isinstance(sys.exception(), BlockingIOError):
            self.info("A request was given up: nothing more of it came for %g seconds.", SILENCE_SECONDS)
        else:
            super().exception(msg, *args, **kwargs)


class Worker(ThreadWorker):
    """Hang up in the thread that answered: gunicorn waits for visitors to do so where it takes new ones."""

    def handle(self, conn: TConn) -> Any:
        """Answer one request; return whether the connection is kept."""
        kept = super().handle(conn)
        if kept is False:
            hang_up(conn.sock)
        return kept


def hang_up(connection: socket.socket) -> None:
    """Say that nothing follows, and let the visitor fetch the answer and hang up, but not for long."""
    until = time.monotonic() + HANG_UP_SECONDS
    try:
        connection.shutdown(socket.SHUT_WR)
        more = b"?"
        while more and (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            more = connection.recv(65_536)
    except OSError:
        pass  # nobody is there any more, or does not hang up
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


_host = settings.host.strip("[]")
bind = f"[{_host}]:{settings.port}" if ":" in _host else f"{_host}:{settings.port}"
backlog = BACKLOG
workers = settings.workers
worker_class = Worker
threads = THREADS
keepalive = 75  # clients keep their connection from step to step
graceful_timeout = int(STOP_SECONDS)
limit_request_line = 8190  # its most; a longer address is answered 414 by gunicorn itself
logger_class = OneLog
# Headers of proxies are believed as far as PROXY_HOPS counts, in one place: webapp/__init__.py. Gunicorn
# would believe everybody on this host.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
control_socket_disable = True


def when_ready(server: Any) -> None:
    """Let no thread wait for ever for a request that was sent in part; connections inherit it when accepted.

    Gunicorn takes timeouts off its sockets, and one of Python's would end long answers too.
    """
    limit = struct.pack("ll", int(SILENCE_SECONDS), int(SILENCE_SECONDS % 1 * 1_000_000))
    for listener in server.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def post_worker_init(worker: Any) -> None:
    """Let every worker seal the audit: of several at once one writes the checkpoint."""
    AuditSealer(services(worker.wsgi).store, settings.audit_signer).start()
    settle()


def child_exit(server: Any, worker: Any) -> None:
    """Forget what a worker told of the present; what it counted stays."""
    mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    """Remove the counters when the server ends, if they were its own."""
    folder = os.environ.get(SHARED_FOLDER, "")
    if os.path.basename(folder).startswith("resume-engine-metrics-") and folder.startswith(
        tempfile.gettempdir()
    ):
        shutil.rmtree(folder, ignore_errors=True)
