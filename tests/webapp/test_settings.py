"""Settings: a bad value stops the start with a sentence that names it."""

from __future__ import annotations

import dataclasses

import pytest

from webapp.keys.limits import Rate
from webapp.settings import LOOPBACK_NAMES, Settings, SettingsError, is_loopback

GOOD_KEY = "0123456789abcdef0123456789abcdef"


def test_the_defaults_suit_one_machine() -> None:
    settings = Settings.from_environment({})
    assert settings.database_url == "sqlite:///resume_engine.db"
    assert (settings.host, settings.port, settings.log_level) == ("127.0.0.1", 8000, "info")
    assert settings.trusted_hosts == LOOPBACK_NAMES
    assert not settings.secure_cookies
    assert settings.proxy_hops == 0
    assert settings.cors_origins == ()


def test_everything_can_be_said() -> None:
    settings = Settings.from_environment(
        {
            "DATABASE_URL": "postgresql+psycopg2://me@db/runs",
            "HOST": "0.0.0.0",
            "PORT": "80",
            "LOG_LEVEL": "WARNING",
            "SECRET_KEY": GOOD_KEY,
            "SECURE_COOKIES": "no",
            "TRUSTED_HOSTS": "runs.example.org, .ops.example.org",
            "PROXY_HOPS": "2",
            "CORS_ORIGINS": "https://a.example, http://b.example:8080/",
        }
    )
    assert settings == Settings(
        database_url="postgresql+psycopg2://me@db/runs",
        host="0.0.0.0",
        port=80,
        log_level="warning",
        secret_key=GOOD_KEY,
        secure_cookies=False,
        trusted_hosts=("runs.example.org", ".ops.example.org"),
        proxy_hops=2,
        cors_origins=("https://a.example", "http://b.example:8080"),
        metrics_public=False,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "8000.0"),
        ("PORT", "٨٠٠٠"),
        ("LOG_LEVEL", "loud"),
        ("SECURE_COOKIES", "maybe"),
        ("PROXY_HOPS", "-1"),
        ("PROXY_HOPS", "99"),
        ("TRUSTED_HOSTS", "https://runs.example.org"),
        ("TRUSTED_HOSTS", "*"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "runs.example.org"),
        ("CORS_ORIGINS", "https://runs.example.org/path"),
        ("CORS_ORIGINS", "null"),
        ("LOG_FORMAT", "xml"),
        ("WORKERS", "0"),
        ("WORKERS", "1000"),
        ("METRICS_PUBLIC", "perhaps"),
        ("API_RATE_LIMIT", "1000"),
        ("API_RATE_LIMIT", "0/second"),
        ("API_RATE_LIMIT", "1000/fortnight"),
        ("API_AUTH_ENABLED", "perhaps"),
        ("API_KEYS_JSON", "{"),
        ("API_KEYS_JSON", '["a-key-for-runners"]'),
        ("API_KEYS_JSON", '{"a-key-for-runners": "emperor"}'),
        ("API_KEYS_JSON", '{"a-key-for-runners": ["runner"]}'),
        ("API_KEYS_JSON", '{"short": "runner"}'),
        ("DEMO_OPERATOR_KEY", "short"),
        ("DEMO_OPERATOR_KEY", "a key with blanks in it"),
        ("SECRET_KEY", "short"),
        ("SECRET_KEY", "changeme"),
        ("SECRET_KEY", "x" * 64),
    ],
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} ") as refused:
        Settings.from_environment({name: value})
    assert refused.value.name == name


def test_a_bad_secret_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({"SECRET_KEY": "hunter2hunter2"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"), [("API_KEYS_JSON", '{"hunter2": "runner"}'), ("DEMO_OPERATOR_KEY", "hunter2")]
)
def test_a_bad_key_is_not_repeated(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({name: value})
    assert "hunter2" not in str(refused.value)


def test_keys_and_limits() -> None:
    settings = Settings.from_environment(
        {
            "API_KEYS_JSON": '{"a-key-for-runners": "runner"}',
            "DEMO_OPERATOR_KEY": "a-key-for-the-demo",
            "API_RATE_LIMIT": "600/minute",
            "WORKERS": "4",
            "LOG_FORMAT": "JSON",
        }
    )
    assert settings.api_keys == {"a-key-for-runners": "runner"}
    assert settings.api_rate_limit == Rate(600, 60)
    assert (settings.workers, settings.log_format) == (4, "json")
    assert "a-key-for" not in repr(settings)
    assert Settings.from_environment({"API_RATE_LIMIT": "off"}).api_rate_limit is None


@pytest.mark.parametrize("elsewhere", [{"HOST": "0.0.0.0"}, {"HOST": "10.0.0.7"}, {"PROXY_HOPS": "1"}])
def test_without_keys_the_api_stays_on_this_machine(elsewhere: dict[str, str]) -> None:
    assert not Settings.from_environment({"API_AUTH_ENABLED": "false"}).api_auth_enabled
    with pytest.raises(SettingsError, match="^API_AUTH_ENABLED is false, but .* decide gates"):
        Settings.from_environment({"API_AUTH_ENABLED": "false", **elsewhere})


def test_there_is_no_default_secret() -> None:
    first, second = Settings.from_environment({}), Settings.from_environment({"SECRET_KEY": "  "})
    assert first.secret_key_is_random
    assert second.secret_key_is_random
    assert first.secret_key != second.secret_key
    assert Settings().secret_key != Settings().secret_key
    assert len(first.secret_key) >= 64


def test_secrets_do_not_show_in_logs() -> None:
    settings = Settings.from_environment(
        {"SECRET_KEY": GOOD_KEY, "DATABASE_URL": "postgresql://me:hunter2@db/x"}
    )
    assert GOOD_KEY not in repr(settings)
    assert "hunter2" not in repr(settings)


def test_cookies_are_secure_where_others_can_listen() -> None:
    assert Settings.from_environment({"HOST": "0.0.0.0"}).secure_cookies
    assert Settings.from_environment({"HOST": "10.0.0.7"}).secure_cookies
    assert not Settings.from_environment({"HOST": "::1"}).secure_cookies


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("localhost.example.org", False),
        ("runs", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
