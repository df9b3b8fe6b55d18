"""Fixtures every test may use. Servers and browsers are provided by `tests/provision`."""

from __future__ import annotations

from collections import Counter

import pytest

pytest_plugins = [
    "tests.legacy_database",
    "tests.provision.app_fixtures",
    "tests.provision.browser_fixtures",
    "tests.provision.postgres_fixtures",
    "tests.provision.published_release",
]

# Everything the product reads from its environment: a developer's own settings must not reach a test.
SETTINGS = (
    "API_AUTH_ENABLED",
    "API_KEYS_JSON",
    "AUDIT_SIGNING_KEY_FILE",
    "CORS_ORIGINS",
    "DATABASE_URL",
    "DEMO_OPERATOR_KEY",
    "HOST",
    "LOG_LEVEL",
    "ORCHESTRATEOS_API_KEY",
    "ORCHESTRATEOS_API_URL",
    "PORT",
    "PROXY_HOPS",
    "RESUME_ENGINE_ENCRYPTION_KEYS",
    "RESUME_ENGINE_LEASE_SECONDS",
    "RESUME_ENGINE_MASK_NAMES",
    "SECRET_KEY",
    "SECURE_COOKIES",
    "TRUSTED_HOSTS",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let files that drive a browser come last, those with most tests first.

    The driver leaves an event loop running, beside which no other starts. Whole files move: the tests of
    one file stay together in one process. A long file at the very end would leave the other processes idle.
    """
    driving = Counter(item.path for item in items if "playwright" in getattr(item, "fixturenames", ()))
    items.sort(key=lambda item: (item.path in driving, -driving[item.path]))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test with no setting in the environment."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
