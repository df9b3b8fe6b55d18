"""A store over HTTP whose control plane is in this process."""

from __future__ import annotations

import httpx

from resume_engine.core.permissions import Role
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import CHEAP
from webapp import Settings, create_app

KEY = "key-of-the-store-tests"


class StoreOverHttp(RemoteCheckpointStore):
    """A remote store whose control plane is an application in this process."""

    def __init__(self, behind: SqlCheckpointStore) -> None:
        settings = Settings(password_cost=CHEAP, api_keys={KEY: Role.OPERATOR}, api_rate_limit=None)
        self.behind = behind
        application = create_app(settings, store=behind)
        super().__init__(
            "http://localhost/api",
            api_key=KEY,
            retry_seconds=5,
            transport=httpx.WSGITransport(application, raise_app_exceptions=False),
        )
