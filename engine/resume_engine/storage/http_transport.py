"""Calls of the control plane over HTTP: keep-alive, repeated until answered, refused in clear words.

The one module that knows an HTTP client, httpx or its successor httpx2.
"""

from __future__ import annotations

import importlib
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from resume_engine.core.errors import (
    InvalidValueError,
    RemoteAccessError,
    RemoteError,
    RemoteTooLargeError,
    RemoteUnreachableError,
)
from resume_engine.storage.remote_errors import raised_again

PROTOCOL_HEADER = "OrchestrateOS-Protocol"
RETRY_SECONDS = 30.0
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
_BUSY = frozenset({429, 502, 503, 504})  # answered by somebody who did nothing
_NAMES = ("httpx", "httpx2")


@dataclass(frozen=True)
class Answer:
    """What the control plane said; `repeated`: it may have been asked the same before."""

    status: int
    body: Any
    repeated: bool


class HttpTransport:
    """Send requests to one control plane; every call may be repeated, which its writes are made for.

    `retry_seconds` is how long a call is repeated while nobody answers. `transport` takes the place of the
    network, for example `httpx.WSGITransport(app)` in tests.
    """

    def __init__(
        self,
        api_url: str,
        *,
        api_key: str | None,
        timeout: float,
        retry_seconds: float = RETRY_SECONDS,
        transport: Any = None,
    ) -> None:
        self.api_url = api_url.rstrip("/")
        self._http = _http_client(transport)
        headers = {"Accept": "application/json", "Content-Type": "application/json", PROTOCOL_HEADER: "1"}
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise InvalidValueError("api_key", "holds characters that cannot be sent in a header")
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = self._http.Client(timeout=timeout, headers=headers, transport=transport)
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self.requests = 0
        self.protocol: int | None = None  # of the server; None until it has answered, 0 for one of 0.2.0

    def close(self) -> None:
        """Release the connections."""
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        retry_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Return the answer to a request; None as body for a 404.

        `idempotency_key` names what has no name of its own in the record.

        Raises what the server refused as the engine's own error, `RemoteAccessError`, or
        `RemoteUnreachableError` when nobody answered for so long.
        """
        patience = self._retry_seconds if retry_seconds is None else retry_seconds
        repeated, trouble = False, "no answer"
        for wait in _waits(patience):
            time.sleep(wait)
            try:
                response = self._send(method, path, body, query, idempotency_key)
            except self._http.TransportError as problem:
                trouble, repeated = f"{type(problem).__name__}: {problem}", True
                continue
            if self._is_no_answer(response) or _is_still_running(response):
                trouble, repeated = f"{response.status_code} {_detail(response)}", True
                time.sleep(_asked_wait(response, patience))
                continue
            return self._understood(response, repeated)
        raise RemoteUnreachableError(
            f"The control plane at {self.api_url} is unreachable for {patience:g} s ({trouble}). "
            "Nothing is known to be written; resume the run when it is back."
        )

    def _send(self, method: str, path: str, body: Any, query: dict[str, Any] | None, key: str | None) -> Any:
        with self._lock:
            self.requests += 1
        content = None if body is None else json.dumps(body, ensure_ascii=True, allow_nan=False).encode()
        headers = {"Idempotency-Key": key} if key else None
        return self._client.request(
            method, self.api_url + path, content=content, params=query, headers=headers
        )

    def expect_protocol(self) -> None:
        """Take the server for one that speaks the protocol before it has said so, never for one of 0.2.0."""
        self.protocol = self.protocol or 1

    def _is_no_answer(self, response: Any) -> bool:
        """Return whether nobody did anything: the server was busy, or a proxy spoke in its place.

        That a body is too large for it a proxy may say, and what fails is the matter of one call.
        """
        status = response.status_code
        if status in _BUSY or (status < 400 and "json" not in response.headers.get("Content-Type", "")):
            return True
        is_unsigned = bool(self.protocol) and PROTOCOL_HEADER not in response.headers
        return is_unsigned and status < 500 and status != 413

    def _learn_protocol(self, response: Any) -> None:
        """Note which calls the server knows; a proxy that fails in its place does not tell that."""
        told = response.headers.get(PROTOCOL_HEADER)
        if told is not None:
            self.protocol = int(told)
        elif self.protocol is None and response.status_code < 500:
            self.protocol = 0

    def _understood(self, response: Any, repeated: bool) -> Answer:
        status = response.status_code
        self._learn_protocol(response)
        if status == 404:
            return Answer(404, None, repeated)
        if status < 400:
            return Answer(status, _json(response), repeated)
        detail = _detail(response)
        if status == 401:
            raise RemoteAccessError(f"401 the key is wrong: {detail} ({self.api_url})")
        problem = _json(response)
        error = raised_again(problem if isinstance(problem, dict) else {}, detail)
        if error is not None:
            raise error
        if status == 403:
            asked = response.request.url.path.rpartition("/")[2]
            needed = "operator" if asked in ("decisions", "roll_back") else "runner"
            raise RemoteAccessError(f"403 needs {needed}: {detail}")
        if status == 400:
            raise InvalidValueError("request", detail)
        if status == 413:
            size = len(response.request.content)
            raise RemoteTooLargeError(
                f"413 the control plane at {self.api_url} takes no {size:,} bytes at once"
            )
        if status == 409 and not self.protocol:
            return Answer(409, None, repeated)  # release 0.2.0 says no more than that
        raise RemoteError(f"The control plane at {self.api_url} answered {status}: {detail}")


def _http_client(transport: Any) -> Any:
    """Return the HTTP client library that is installed, the one of `transport` if given."""
    own = type(transport).__module__.partition(".")[0]
    for name in (own, *_NAMES) if own in _NAMES else _NAMES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("RemoteCheckpointStore needs an HTTP client: pip install 'resume_engine[remote]'")


def _waits(patience: float) -> Iterator[float]:
    """Yield how long to wait before each attempt, none before the first, until patience is over."""
    give_up = time.monotonic() + patience
    wait = _FIRST_WAIT
    yield 0.0
    while time.monotonic() < give_up:
        yield min(random.uniform(wait / 2, wait), max(0.0, give_up - time.monotonic()))
        wait = min(wait * 2, _LONGEST_WAIT)


def _is_still_running(response: Any) -> bool:
    """Return whether the first attempt of this very call is being worked on."""
    problem = _json(response) if response.status_code == 409 else None
    return isinstance(problem, dict) and problem.get("code") == "still_running"


def _asked_wait(response: Any, patience: float) -> float:
    try:
        asked = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
    return min(max(asked, 0.0), patience, 10.0)


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _detail(response: Any) -> str:
    problem = _json(response)
    detail = problem.get("detail") if isinstance(problem, dict) else None
    if isinstance(detail, dict):
        detail = detail.get("message")
    return str(detail or response.text)[:2_000]
