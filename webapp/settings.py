"""Settings: read once from the environment, checked strictly, never changed afterwards."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from resume_engine.core.errors import InvalidValueError, PolicyFileError
from resume_engine.core.permissions import Role
from resume_engine.core.policy_file import POLICY_VARIABLE, read_policy
from resume_engine.storage.open_store import DEFAULT_DATABASE_URL
from resume_engine.storage.signing import KEY_FILE_VARIABLE, NoKey, SecretKey, Signer, read_key
from webapp.keys.limits import Rate

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
METRICS = "/metrics"
SECRET_KEY_MIN_CHARACTERS = 32
KEY_MIN_CHARACTERS = 16
DEFAULT_RATE = Rate(1_000, 1)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

Value = TypeVar("Value")


class SettingsError(ValueError):
    """A setting that cannot be accepted: the message names it and says what to write instead."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(f"{name} {message}")


@dataclass(frozen=True, kw_only=True)
class PasswordCost:
    """Say how much work one password check is (argon2id)."""

    time_cost: int = 3
    memory_kib: int = 65_536
    parallelism: int = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the dashboard can be told from outside; the defaults suit one person on one machine."""

    database_url: str = field(default=DEFAULT_DATABASE_URL, repr=False)  # may hold a password
    host: str = "127.0.0.1"
    port: int = 8_000
    log_level: str = "info"
    # Signs form tokens and the cookie of visitors. Sessions are random rows and do not depend on it.
    secret_key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    secret_key_is_random: bool = False
    secure_cookies: bool = False
    trusted_hosts: tuple[str, ...] | None = LOOPBACK_NAMES  # None: any name
    proxy_hops: int = 0  # proxies in front whose X-Forwarded-For and -Proto are believed
    cors_origins: tuple[str, ...] = ()  # sites whose scripts may call the JSON API; pages are never shared
    password_cost: PasswordCost = PasswordCost()
    api_prefix: str = "/api"
    api_only: bool = False  # no pages, and the API at the root as 0.2.0 served it
    api_auth_enabled: bool = True
    # Keys that come from the environment instead of the database: key -> role.
    api_keys: Mapping[str, Role] = field(default_factory=dict, repr=False)
    demo_operator_key: str | None = field(default=None, repr=False)  # decides on the demo runs only
    demo_mode: bool = False
    policy_file: str | None = None  # who may decide what; None: operators and admins, each alone
    audit_signing_key_file: str | None = None  # signs checkpoints of the audit; None: secret_key does
    log_format: str = "text"
    metrics_public: bool = True  # /metrics without a key; from outside only where that was asked for
    workers: int = 1  # processes of `resume-engine serve`
    api_rate_limit: Rate | None = DEFAULT_RATE  # of each key, all workers together; None: none

    def __post_init__(self) -> None:
        """Refuse what is only dangerous together."""
        if self.api_auth_enabled or (is_loopback(self.host) and not self.proxy_hops):
            return
        where = "a proxy is in front" if self.proxy_hops else f"HOST is {self.host}"
        raise SettingsError(
            "API_AUTH_ENABLED",
            f"is false, but {where}: anybody who reaches it could decide gates. "
            "Leave it true, or serve on 127.0.0.1 only.",
        )

    @property
    def audit_signer(self) -> Signer:
        """Return what signs checkpoints of the audit: the key file, else a lasting secret, else nothing."""
        if self.audit_signing_key_file is not None:
            return read_key(Path(self.audit_signing_key_file))
        return NoKey() if self.secret_key_is_random else SecretKey(self.secret_key)

    @property
    def key_pepper(self) -> str | None:
        """Return what hashes of API keys are keyed with: a secret that outlives this process, or nothing."""
        return None if self.secret_key_is_random else self.secret_key

    @property
    def api_base(self) -> str:
        """Return the prefix of the JSON API, empty when it is served at the root."""
        return "" if self.api_only else self.api_prefix

    def is_api_path(self, path: str) -> bool:
        """Return whether a path belongs to the JSON API: it takes keys, and answers in JSON."""
        return self.api_only or path.startswith(f"{self.api_prefix}/") or path in (self.api_prefix, METRICS)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings of the environment; raise `SettingsError` for the first bad value.

        An empty value counts as not set, as in a compose file that passes everything on.
        """
        given = {k: v.strip() for k, v in (os.environ if environ is None else environ).items() if v.strip()}
        host = given.get("HOST", cls.host)
        local = is_loopback(host)
        secret = _read(given, "SECRET_KEY", _secret, None)
        return cls(
            database_url=given.get("DATABASE_URL", DEFAULT_DATABASE_URL),
            host=host,
            port=_read(given, "PORT", _port, cls.port),
            log_level=_read(given, "LOG_LEVEL", _log_level, cls.log_level),
            secret_key=secret or secrets.token_hex(32),
            secret_key_is_random=secret is None,
            secure_cookies=_read(given, "SECURE_COOKIES", _boolean, not local),
            trusted_hosts=_read(given, "TRUSTED_HOSTS", _hosts, None) or (LOOPBACK_NAMES if local else None),
            proxy_hops=_read(given, "PROXY_HOPS", _hops, cls.proxy_hops),
            cors_origins=_read(given, "CORS_ORIGINS", _origins, ()),
            api_prefix=_read(given, "API_PREFIX", _prefix, cls.api_prefix),
            api_only=_read(given, "API_ONLY", _boolean, cls.api_only),
            api_auth_enabled=_read(given, "API_AUTH_ENABLED", _boolean, cls.api_auth_enabled),
            api_keys=_read(given, "API_KEYS_JSON", _keys, {}),
            demo_operator_key=_read(given, "DEMO_OPERATOR_KEY", _key, None),
            demo_mode=_read(given, "DEMO_MODE", _boolean, cls.demo_mode),
            policy_file=_read(given, POLICY_VARIABLE, _policy_file, None),
            audit_signing_key_file=_read(given, KEY_FILE_VARIABLE, _signing_key_file, None),
            log_format=_read(given, "LOG_FORMAT", _log_format, cls.log_format),
            metrics_public=_read(given, "METRICS_PUBLIC", _boolean, local and not given.get("PROXY_HOPS")),
            workers=_read(given, "WORKERS", _workers, cls.workers),
            api_rate_limit=_read(given, "API_RATE_LIMIT", _rate, cls.api_rate_limit),
        )


def _signing_key_file(text: str) -> str:
    try:
        key = read_key(Path(text))
    except InvalidValueError as problem:
        raise ValueError(str(problem).removeprefix(f"{KEY_FILE_VARIABLE}: ")) from None
    if not key.can_sign:
        raise ValueError("is a public key; the server needs the private one")
    return text


def is_loopback(host: str) -> bool:
    """Return whether a server on `host` can only be reached from its own machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read(given: Mapping[str, str], name: str, parse: Callable[[str], Value], default: Value) -> Value:
    text = given.get(name)
    if text is None:
        return default
    try:
        return parse(text)
    except ValueError as problem:
        raise SettingsError(name, str(problem)) from None


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65_536:
        raise ValueError(f"is {text!r}; expected a number from 1 to 65535")
    return int(text)


def _policy_file(text: str) -> str:
    try:
        read_policy(text)
    except PolicyFileError as problem:
        raise ValueError(f"cannot be used. {problem}") from None
    return text


def _hops(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 10:
        raise ValueError(f"is {text!r}; expected the number of proxies in front, 0 to 10")
    return int(text)


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f"is {text!r}; expected one of {', '.join(LOG_LEVELS)}")
    return text.lower()


def _log_format(text: str) -> str:
    if text.lower() not in LOG_FORMATS:
        raise ValueError(f"is {text!r}; expected one of {', '.join(LOG_FORMATS)}")
    return text.lower()


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 64:
        raise ValueError(f"is {text!r}; expected a number of processes, 1 to 64")
    return int(text)


def _boolean(text: str) -> bool:
    words = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    if text.lower() not in words:
        raise ValueError(f"is {text!r}; expected true or false")
    return words[text.lower()]


def _secret(text: str) -> str:
    # The value itself never appears in a message.
    if len(text) < SECRET_KEY_MIN_CHARACTERS or len(set(text)) < 8:
        raise ValueError(
            f"is too easy to guess; it needs at least {SECRET_KEY_MIN_CHARACTERS} random characters, "
            "for example from `python -c 'import secrets; print(secrets.token_hex(32))'`"
        )
    return text


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if "/" in name or " " in name or "*" in name:
            raise ValueError(f"holds {name!r}; expected names such as runs.example.org or .example.org")
    return names


def _prefix(text: str) -> str:
    if not re.fullmatch(r"(/[a-z0-9_-]+)+", text):
        raise ValueError(f"is {text!r}; expected a path such as /api")
    return text


def _key(text: str) -> str:
    # The value itself never appears in a message.
    if len(text) < KEY_MIN_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"needs at least {KEY_MIN_CHARACTERS} ASCII characters without blanks")
    return text


def _keys(text: str) -> Mapping[str, Role]:
    expected = 'expected a JSON object such as {"<key>": "runner"}'
    try:
        given = json.loads(text)
    except ValueError:
        raise ValueError(f"is not JSON; {expected}") from None
    if not isinstance(given, dict):
        raise ValueError(f"is not an object; {expected}")
    roles = ", ".join(role.value for role in Role)
    for role in given.values():
        if role not in tuple(Role):
            raise ValueError(f"gives a key a role that does not exist; use one of {roles}")
    return {_key(key): Role(role) for key, role in given.items()}


def _rate(text: str) -> Rate | None:
    return None if text.lower() == "off" else Rate.parse(text)


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if (
            parts.scheme not in ("http", "https")
            or not parts.netloc
            or origin != f"{parts.scheme}://{parts.netloc}"
        ):
            raise ValueError(f"holds {origin!r}; expected addresses such as https://ops.example.org")
    return origins
