"""How gunicorn runs the workers of `resume-engine serve`; it reads the names of this module."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from typing import Any

from gunicorn.glogging import Logger
from prometheus_client.multiprocess import mark_process_dead

from webapp.extensions import services
from webapp.logs import configure
from webapp.metrics import SHARED_FOLDER
from webapp.sealer import AuditSealer
from webapp.serving import BACKLOG, THREADS, settle
from webapp.settings import Settings

settings = Settings.from_environment()


class OneLog(Logger):
    """Gunicorn's own words go where those of the application go, in the same form."""

    def setup(self, cfg: Any) -> None:
        """Send everything to the log of the process."""
        configure(settings.log_level, settings.log_format)
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        self.error_log.handlers.clear()
        self.error_log.propagate = True


_host = settings.host.strip("[]")
bind = f"[{_host}]:{settings.port}" if ":" in _host else f"{_host}:{settings.port}"
backlog = BACKLOG
workers = settings.workers
worker_class = "gthread"
threads = THREADS
keepalive = 75  # clients keep their connection from step to step
graceful_timeout = 30
logger_class = OneLog
# Headers of proxies are believed as far as PROXY_HOPS counts, in one place: webapp/__init__.py. Gunicorn
# would believe everybody on this host.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
control_socket_disable = True


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
