"""Secrets are not shown: values under names such as `password`, and tokens inside texts.

The record itself is never changed, since a resume needs it as it is; what is masked is what people see:
pages, exports, logs and the command line. Values are found by name (`password`, `apiKey`, `X-Auth-Token`) and
by shape (`Bearer ...`, `postgres://user:...@host`, private keys). JSON is masked as text, token by token, so
that a preview cut in the middle of a value is masked as well as the whole.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from typing import Any

MASK = "•••• (masked)"
MASK_BEGINNING = "••••"
NAMES_VARIABLE = "RESUME_ENGINE_MASK_NAMES"
"""More names whose values are masked, separated by commas."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SECRET_WORDS = _names(
    """apikeys bearer cookie cookies csrf cvc cvv jwt otp passcode passwords pw secrets credentials xsrf"""
)
# Written in one word as well, behind anything: PGPASSWORD, dbpasswd, myApikey.
_SECRET_ENDINGS = ("password", "passwd", "pwd", "passphrase", "secret", "apikey", "credential", "privatekey")
_SECRET_BEGINNINGS = ("password", "passwd")
_SECRET_PAIRS = _names(
    """access_key account_key api_key api_keys auth_key card_number connection_string encryption_key host_key
    master_key pass_phrase pass_word private_key private_keys secret_key session_key shared_key signing_key
    ssh_key storage_key webhook_key"""
)
# Whole names: inside longer ones these words mean something else, as in prior_authorization.
_SECRET_NAMES = _names("auth authorization authorization_header http_authorization proxy_authorization")
# A name with one of these beside `token` counts the tokens of a language model.
_COUNT_WORDS = _names(
    """budget completion cost count counts input index length limit max min num number output per price prompt
    remaining size total type usage used"""
)


def is_secret_name(name: str) -> bool:
    """Return whether the value under `name` is masked, in whatever case and style the name is written."""
    return _is_secret_name(name[-120:], os.environ.get(NAMES_VARIABLE, ""))


@lru_cache(maxsize=4096)
def _is_secret_name(name: str, more_names: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    joined = "_".join(words)
    pairs = {f"{a}_{b}" for a, b in pairwise(words)}
    if joined in _SECRET_NAMES or _SECRET_PAIRS & pairs or _SECRET_WORDS.intersection(words):
        return True
    if any(word.endswith(_SECRET_ENDINGS) or word.startswith(_SECRET_BEGINNINGS) for word in words):
        return True
    if any(word.endswith(("token", "tokens")) for word in words):
        return not _COUNT_WORDS.intersection(words)
    return bool(joined and more_names) and joined in _more(more_names)


@lru_cache(maxsize=8)
def _more(text: str) -> frozenset[str]:
    return frozenset("_".join(word.lower() for word in _WORD.findall(name)) for name in text.split(","))


# Texts

_NAME = r"(?<![A-Za-z0-9_.\-])[A-Za-z][A-Za-z0-9_.\-]{0,120}"
# A value: in quotes, perhaps escaped ones and to the end of a cut text, or up to the next separator.
_VALUE = re.compile(
    r"(?s)(?P<quote>\\*[\"'])(?P<inner>.*?)(?:(?<!\\)(?P=quote)|\Z)"
    r"|(?P<bare>[^\s,;&(){}\[\]<>\"'\\][^\s,;&{}\[\]<>\"'\\]*)"
)
_PATTERNS_SHAPE = [
    # A private key in PEM form, to its end or to where the text was cut.
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,2}"),  # a JSON web token
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}"),
    re.compile(
        r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|[sr]k-|[sr]k_live_|[sr]k_test_|AIza)[A-Za-z0-9_-]{12,}"
    ),
    # A key of this system's own API, perhaps cut; a random text holds capitals or digits, a name seldom does.
    re.compile(r"\bre_[a-z0-9]{8}_(?=[a-z_-]{0,15}[A-Z0-9])[A-Za-z0-9_-]{16,}"),
]
_BEARER = re.compile(
    r"(?i)\b(bearer\s+(?!auth|token|scheme|is\b|was\b|must\b)|(?:basic|token)\s+(?=[^\s\"',;]{0,200}[0-9=]))"
    r"[A-Za-z0-9._~+/=-]{8,}"
)
_HEADER = re.compile(
    r"(?im)(\b(?:proxy-)?authorization|\b(?:set-)?cookie)(\\*[\"']?\s*[:=]\s*\\*[\"']?)([^\r\n\"']+)"
)
_BRACKETS = re.compile(r"[{}\[\]]")
_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.\-]{1,30}://)([^\s/?#\"'<>]{0,400})@")
_URL_CUT = re.compile(r"(?i)\b([a-z][a-z0-9+.\-]{1,30}://[^\s/?#\"'<>:@]{0,200}:)[^\s/?#\"'<>@]{1,400}\Z")
_ASSIGNED = re.compile(rf"({_NAME})\\*[\"']?\]?\s*(?:=>|:=|==|[:=])\s*(?:[bfru]{{1,2}}(?=[\"']))?")
_SPOKEN = re.compile(rf"({_NAME})\s+(?:is\s+|was\s+|of\s+)?(?=\\*[\"'])")
_FLAG = re.compile(r"(?<![A-Za-z0-9_.\-])(--?[A-Za-z][A-Za-z0-9_.\-]{0,120})\s+(?=[^\s\-])")
# Nothing is masked in a text without any of these.
_SUSPICIOUS = re.compile(
    r"(?i)passw|pwd|pass.?phrase|passcode|\bpw|secret|token|credential|auth|cookie|bearer|basic\s|jwt|otp|cv[vc]|"
    r"[cx]srf|card.?number|connection.?string|://|eyJ|akia|asia|gh[pousr]_|glpat|github_pat|xox|[sr]k[-_]|aiza|re_[a-z0-9]|"
    r"(?:access|account|api|encryption|host|master|private|session|shared|signing|ssh|storage|webhook).?key"
)


# To look for these words takes a hundredth of the pattern's time; wherever it matches, there is one of them.
_HINTS = _names(
    """pass pwd pw secret token credential auth cookie bearer basic jwt otp cvc cvv csrf xsrf card connection ://
    eyj akia asia ghp_ gho_ ghu_ ghs_ ghr_ glpat github_pat xox sk- rk- sk_ rk_ aiza re_ key"""
)


_HIDDEN_LETTER = re.compile(r"\\u00[2-7]")


def _is_suspicious(text: str) -> bool:
    # Only in ASCII are small letters all that a pattern means by ignoring case.
    if text.isascii():
        small = text.lower()
        if not any(hint in small for hint in _HINTS):
            return False
    return _SUSPICIOUS.search(text) is not None


def may_hold_secrets(text: str) -> bool:
    """Return whether `mask_json_text` could change any JSON text that `text` holds, as a quick first look."""
    return _is_suspicious(text) or _has_hidden_letters(text) or bool(os.environ.get(NAMES_VARIABLE))


def _has_hidden_letters(text: str) -> bool:
    r"""Return whether letters of ASCII stand there as escapes: nobody writes them so but to hide a name."""
    return "\\u00" in text and _HIDDEN_LETTER.search(text) is not None


def mask_text(text: str, *, cut: bool = False) -> str:
    """Return a message, log line or traceback with its secrets masked; `cut` says that its end is missing."""
    if not _is_suspicious(text) and not os.environ.get(NAMES_VARIABLE):
        return text
    for pattern in _PATTERNS_SHAPE:
        text = pattern.sub(MASK, text)
    text = _HEADER.sub(_masked_header, text)
    text = _URL.sub(_masked_url, text)
    if cut and (match := _URL_CUT.search(text, max(0, len(text) - 700))) is not None:
        text = text[: match.end(1)] + MASK
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    for named in (_ASSIGNED, _SPOKEN, _FLAG):
        text = _mask_named(named, text)
    return text


def _masked_header(match: re.Match[str]) -> str:
    return match[0] if match[3].startswith("•") else f"{match[1]}{match[2]}{MASK}"


def _masked_url(match: re.Match[str]) -> str:
    user, colon, _ = match[2].partition(":")
    if not colon:  # a lone user name; one as long as a token is one
        return match[0] if len(user) < 20 else f"{match[1]}{MASK}@"
    return f"{match[1]}{user}:{MASK}@"


def _mask_named(naming: re.Pattern[str], text: str) -> str:
    """Mask the values behind secret names; what follows any other name may be a name itself."""
    pieces: list[str] = []
    position = copied = 0
    while (named := naming.search(text, position)) is not None:
        position = named.end(1)
        if not is_secret_name(named[1]):
            continue
        span = _value_span(text, named.end())
        if span is None or _is_harmless(named[1], text[slice(*span)]):
            continue
        pieces += [text[copied : span[0]], MASK]
        copied = position = span[1]
    return "".join([*pieces, text[copied:]]) if pieces else text


def _value_span(text: str, start: int) -> tuple[int, int] | None:
    """Return where the value that begins at `start` stands, without its quotes; None if there is none."""
    if text[start : start + 1] in ("{", "["):
        depth = 0
        for bracket in _BRACKETS.finditer(text, start):
            depth += 1 if bracket[0] in "{[" else -1
            if depth == 0:
                return start, bracket.end()
        return start, len(text)
    match = _VALUE.match(text, start)
    if match is None:
        return None
    return match.span("inner" if match["quote"] else "bare")


def _is_harmless(name: str, value: str) -> bool:
    """Return whether a value tells nothing: no value at all, a yes or no, a number of tokens."""
    if name.lower().endswith("tokens") and value.isdigit():
        return True
    return (
        not value
        or value.startswith(MASK_BEGINNING)
        or value.rstrip(".")
        in (
            "None",
            "null",
            "true",
            "false",
            "True",
            "False",
            '""',
        )
    )


# JSON

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\]:,]|[^\s"{}\[\]:,]+')
_MASKED_STRING = json.dumps(MASK, ensure_ascii=False)


def mask_json_text(text: str) -> str:
    """Return JSON text, whole or cut anywhere, with its secrets masked; the rest stays byte for byte."""
    if not may_hold_secrets(text):
        return text
    pieces: list[str] = []
    copied = 0
    tokens = _Tokens(text)
    for start, end in tokens:
        token = text[start:end]
        if not token.startswith('"'):
            continue
        if tokens.is_key(end):
            name = _decoded(token)
            if is_secret_name(name):
                span = tokens.skip_value()
                if span is not None and not _is_harmless(name, text[span[0] : span[1]]):
                    pieces += [text[copied : span[0]], _MASKED_STRING]
                    copied = span[1]
            continue
        masked = _masked_string(token)
        if masked is not token:
            pieces += [text[copied:start], masked]
            copied = end
    return "".join([*pieces, text[copied:]]) if pieces else text


class _Tokens:
    """Walk the tokens of JSON text; `skip_value` steps over a whole value, to the end if it was cut."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while (span := self._next()) is not None:
            yield span

    def _next(self) -> tuple[int, int] | None:
        match = _TOKEN.search(self._text, self._position)
        if match is None:
            return None
        self._position = match.end()
        return match.span()

    def is_key(self, end: int) -> bool:
        """Return whether a colon follows the string that ends here."""
        following = _TOKEN.search(self._text, end)
        return following is not None and following[0] == ":"

    def skip_value(self) -> tuple[int, int] | None:
        """Step over the colon and the value behind it; return where the value stands, None if nowhere."""
        self._next()
        first = self._next()
        if first is None:
            return None
        depth, last = 0, first
        span: tuple[int, int] | None = first
        while span is not None:
            last = span
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(self._text[span[0] : span[1]], 0)
            if depth <= 0:
                return first[0], last[1]
            span = self._next()
        return first[0], last[1]


def _decoded(token: str) -> str:
    """Return what a string token says; of one that was cut, as far as it goes."""
    if not _is_closed(token):
        token += '"'
    for left_out in range(7):  # the cut may have gone through an escape: \\u00e9
        with suppress(ValueError):
            return str(json.loads(token if not left_out else token[: -1 - left_out] + '"'))
    return token.strip('"')


def _masked_string(token: str) -> str:
    """Return a JSON string with the secrets inside it masked; the very same one when there are none."""
    text, whole = _decoded(token), _is_closed(token)
    # JSON inside a string is masked as JSON first; what is left is text, or another notation.
    masked = mask_text(mask_json_text(text) if text[:1] in ("{", "[") else text, cut=not whole)
    if masked == text:
        return token
    written = json.dumps(masked, ensure_ascii=False)
    return written if whole else written[:-1]


def _is_closed(token: str) -> bool:
    """Return whether a string token has its closing quote; one at the end of a cut text has none."""
    backslashes = len(token) - 1 - len(token[:-1].rstrip("\\"))
    return len(token) > 1 and token.endswith('"') and backslashes % 2 == 0


def mask_value(data: Any) -> Any:
    """Return a JSON value with its secrets masked; the very same one when there are none."""
    text = json.dumps(data)
    masked = mask_json_text(text)
    return data if masked == text else json.loads(masked)


# Logs


class SecretsFilter(logging.Filter):
    """Mask the secrets in everything that is logged, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where needed; nothing is ever dropped."""
        with suppress(Exception):  # a log line that cannot be formatted is the handler's to report
            message = record.getMessage()
            masked = mask_text(message)
            if masked != message:
                record.msg, record.args = masked, None
            if record.exc_info and not record.exc_text:
                frames = logging.Formatter().formatException(record.exc_info)
                if mask_text(frames) != frames:
                    record.exc_info, record.exc_text = None, mask_text(frames)
            elif record.exc_text:
                record.exc_text = mask_text(record.exc_text)
        return True


_FILTER = SecretsFilter()


def masked_logger(name: str) -> logging.Logger:
    """Return the logger of that name; what it logs is masked, whatever handlers there are."""
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)
    return logger
