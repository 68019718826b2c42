"""Log lines: JSON for machines, readable for people, with the ids of what the work is about, without secrets.

Everything that reaches a log goes through one of the two formatters here: our records and those of Django, Celery and
Granian alike. A formatter, not a logger of its own, because most records are other people's. It imports nothing of
Django's, so that Granian's main process may use it.

    with bound(saga="payments.refund ref_…", **named("ref_…", "ord_…")):
        log.warning("the provider did not answer")   # carries saga, refund, order, and the request's id
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

# --- What the work at hand is about -----------------------------------------------------------------

_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=MappingProxyType({}))

# What a public id names, by its prefix.
_NAMES = {"ord": "order", "pay": "payment", "ref": "refund", "dis": "discrepancy", "rec": "run"}
_PUBLIC_ID = re.compile(rf"({'|'.join(_NAMES)})_[0-9a-hjkmnp-tv-z]{{26}}")


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Every record inside carries these ids, and those bound around it. Empty ones are left out."""
    token = _bound.set(_with(ids))
    try:
        yield
    finally:
        _bound.reset(token)


def note(**ids: object) -> None:
    """Add ids to whatever is bound around: for what becomes known halfway. Gone when that block ends."""
    _bound.set(_with(ids))


def begin(**ids: object) -> None:
    """Forget what is bound, and bind these: where a process turns to other work and no block encloses it."""
    _bound.set({})
    note(**ids)


def bound_id(name: str) -> str:
    """An id that is bound here, empty if none is."""
    return _bound.get().get(name, "")


def named(*values: object) -> dict[str, str]:
    """The public ids among some values, by what they name: `{"order": "ord_…", "payment": "pay_…"}`."""
    found: dict[str, str] = {}
    for value in values:
        match = _PUBLIC_ID.match(value) if isinstance(value, str) else None
        if match:
            found.setdefault(_NAMES[match[1]], match[0])
    return found


def named_in(payload: object) -> dict[str, str]:
    """The public ids among the values of a payload; none in one that is no mapping: what is broken is logged, too."""
    return named(*payload.values()) if isinstance(payload, Mapping) else {}


def _with(ids: Mapping[str, object]) -> Mapping[str, str]:
    return {**_bound.get(), **{name: str(value) for name, value in ids.items() if value}}


# --- Secrets ----------------------------------------------------------------------------------------

REDACTED = "[redacted]"

# Behind these names stands a secret; and what may stand between the name and it, as `name=…`, `'name': …`, `('name', …)`.
_SECRET_KEY = re.compile(r"password|passwd|passphrase|secret|token|authorization|cookie|sessionid|api[_-]?key", re.I)
_BETWEEN = r"[\w.-]{0,32}\\{0,8}['\"]?\s{0,4}(?:=>|[:=]|(?<=['\"]),)\s{0,4}"
_VALUE = r"(?:b?\\{0,8}'[^'\n\\]{0,4096}\\{0,8}'|b?\\{0,8}\"[^\"\n\\]{0,4096}\\{0,8}\"|[^\s'\",;&})\]]+)"
# Each is bounded, so that a long line costs no more than its length. What is recognised by itself comes first.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # The intent's id stays: it is no secret, and says which payment the line is about.
    (re.compile(r"\b((?:pi|seti|src|cs)_\w{1,64}?)_secret_\w+"), rf"\1_secret_{REDACTED}"),
    (re.compile(r"\b((?:sk|rk|pk)_(?:test|live))_\w+"), rf"\1_{REDACTED}"),
    (re.compile(r"\bwhsec_[\w+/=-]+"), f"whsec_{REDACTED}"),
    (re.compile(r"\b(ek_[0-9a-f]{12})_\w+"), rf"\1_{REDACTED}"),  # our own; the desk shows the part that stays
    (re.compile(r"(://[^\s/:@?#'\"]{0,256}):[^\s/?#'\"]{1,1024}@"), rf"\1:{REDACTED}@"),
    (re.compile(rf"((?:authorization|cookie){_BETWEEN}b?['\"]?)[^\n'\"]+", re.I), rf"\1{REDACTED}"),
    (re.compile(r"\b(bearer|basic)(\s+)(?!\[redacted)[\w.~+/=-]{6,}", re.I), rf"\1\2{REDACTED}"),
    (re.compile(rf"((?:{_SECRET_KEY.pattern}){_BETWEEN})(?!['\"]?\[redacted){_VALUE}", re.I), rf"\1{REDACTED}"),
)
_CARD = re.compile(r"(?<![\w.])[2-6](?:[ -]?\d){12,18}(?![\w.])")


# No rule can match a text that holds none of these: most texts are told apart for a microsecond.
_MARKS = (
    *("secret", "whsec_", "_test_", "_live_", "ek_", "://", "bearer", "basic"),
    *(
        "password",
        "passwd",
        "passphrase",
        "token",
        "authorization",
        "cookie",
        "sessionid",
        "apikey",
        "api_key",
        "api-key",
    ),
)


def redact(text: str) -> str:
    """The text without keys, passwords, client secrets and card numbers, wherever in it they stand."""
    lowered = text.lower()
    if any(mark in lowered for mark in _MARKS):
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
    return _CARD.sub(_without_card, text)


def _without_card(match: re.Match[str]) -> str:
    """Only what passes the check digit of card numbers: other long numbers are ids and amounts."""
    digits = [int(letter) for letter in match[0] if letter.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    is_card = (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return REDACTED if is_card else match[0]


def _redacted_value(value: Any, name: str = "") -> Any:
    """A value of a record's extra fields as JSON, without secrets. Nothing that is logged may break the log."""
    if _SECRET_KEY.search(name):
        return REDACTED
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return REDACTED if _CARD.search(str(value)) and redact(str(value)) == REDACTED else value
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted_value(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted_value(inner) for inner in value]
    return redact(_text(value))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  an object that cannot even be shown is still to be logged
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


# --- Lines ------------------------------------------------------------------------------------------

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Celery's and Django's extras that hold live objects, or the arguments of a task: the message says enough.
_NO_FIELDS = _OWN | {"request", "server_time", "data", "sock"}
_LONGEST = 8_000  # characters of a message or a traceback: container runtimes cut a line at 16 KB
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        raise NotImplementedError

    def _message(self, record: logging.LogRecord) -> str:
        """The message; a record whose arguments do not fit it is told as it is (logging itself would print its secrets)."""
        try:
            return redact(record.getMessage())[:_LONGEST]
        except Exception:  # noqa: BLE001  whatever an argument's __str__ raises
            return redact(" ".join(map(_text, [record.msg, *_arguments(record)])))[:_LONGEST]

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""]
        parts += [self.formatStack(record.stack_info)] if record.stack_info else []
        return redact("\n".join(part for part in parts if part))[-_LONGEST:]

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        given = {name: value for name, value in record.__dict__.items() if name not in _NO_FIELDS}
        return {name: _redacted_value(value, name) for name, value in {**_bound.get(), **given}.items()}

    def _moment(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return moment.replace("+00:00", "Z")


def _arguments(record: logging.LogRecord) -> list[object]:
    arguments = record.args or ()
    return [arguments] if isinstance(arguments, Mapping) else list(arguments)


class JsonFormatter(_Formatter):
    """One line of JSON a record: `at level logger message`, the bound ids, extra fields, `exception`, `pid`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": self._moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
        line |= {name: value for name, value in self._fields(record).items() if name not in line}
        if trace := self._trace(record):
            line["exception"] = trace
        return json.dumps({**line, "pid": record.process}, default=str)


class LineFormatter(_Formatter):
    """For a terminal: one line, then the traceback. Nobody can forge a line: what follows a line break is indented."""

    def format(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{name}={value}" for name, value in self._fields(record).items())
        head = f"{self._moment(record)} {record.levelname:<7} {record.name} {self._message(record)}"
        body = "\n".join(part for part in (f"{head}  [{ids}]" if ids else head, self._trace(record)) if part)
        return _ODD.sub(lambda odd: odd[0].encode("unicode_escape").decode(), body).replace("\n", "\n    ")


def formatter() -> logging.Formatter:
    """By LOG_FORMAT: `json`, or `line` (the default). Named in the logging settings of Django and of Granian."""
    return JsonFormatter() if os.environ.get("LOG_FORMAT") == "json" else LineFormatter()
