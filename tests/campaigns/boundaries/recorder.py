"""Sees from outside of the product where a process may die: at each commit, and at each call to another program.

`watch` is used in a forked child alone: what it wraps stays wrapped until that child is gone. The product has no hook
for it. What is wrapped are the doors of the process: Django's commit, `http.client`, the mail, and the Redis client.
Where the process stands (which step of which saga, which handler, which task) is read off the stack by the types of
what the frames hold, so that a new step, handler or task needs no word here.
"""

import http.client
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from types import CodeType, FrameType
from typing import Any

from celery import current_app
from django.core.mail import EmailMessage
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from redis.client import Pipeline, Redis

from durability.types import Call, Handler, Saga, Step
from foundation.redis import client as redis_client

OURS = {"foundation", "durability", "catalog", "inventory", "payments", "orders", "reconciliation", "config", "tests"}
WIRING = {"config", "foundation", "tests"}  # what an edge is called by
HARNESS = "tests.campaigns"  # what the campaign itself does on the way is no boundary
SAGA, HANDLER, TASK, EDGE = "saga", "handler", "task", "edge"
DO, UNDO = "do", "undo"
BEFORE, SENT, AFTER = "before", "sent", "after"
COMMIT = "commit"

_WRITES = re.compile(
    r"\s*(INSERT|UPDATE|DELETE|MERGE|TRUNCATE|WITH\b.*\b(INSERT|UPDATE|DELETE)\b|SELECT\b.*\bFROM orders_place_order\()",
    re.I | re.S,
)
_READS_OF_REDIS = ("GET", "MGET", "EXISTS", "Z", "X", "PING", "TTL", "SCAN", "TYPE", "LLEN")
_WRITES_OF_REDIS = ("ZADD", "ZREM", "XADD", "XTRIM", "XDEL")
# Wakes workers, whose tasks the campaign runs itself; and keeps copies for readers, which end by themselves.
_CHANGES_NOTHING = ("everycent:doorbell", "everycent:document")
_AN_ID = re.compile(r"/[a-z]{2,4}_[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the product: a saga's step (`part` do or undo), a handler, a task, or an edge (a view, a service)."""

    kind: str
    name: str
    step: str = ""
    part: str = ""

    def __str__(self) -> str:
        words = [self.kind, self.name, f"“{self.step}”" if self.step else "", self.part]
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class Boundary:
    """One place to die: before, while or after what, and which time this happens there."""

    place: Place
    what: str
    when: str
    nth: int

    def __str__(self) -> str:
        again = f" ({self.nth}.)" if self.nth > 1 else ""
        when = {BEFORE: "before", SENT: "after sending", AFTER: "after"}[self.when]
        return f"{self.place}: {when} {self.what}{again}"


def watch(reached: Callable[[Boundary], None]) -> None:
    """From here on tell `reached` of each boundary that the main thread comes to. For a forked child."""
    counts: Counter[tuple[Place, str, str]] = Counter()

    def tell(what: str, when: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        place = _place(sys._getframe(1))
        if place:
            counts[place, what, when] += 1
            reached(Boundary(place, what, when, counts[place, what, when]))

    _watch_commits(tell)
    _watch_http(tell)
    _watch_mail(tell)
    _watch_redis(tell)


# --- Where the process stands -----------------------------------------------------------------------


def _place(frame: FrameType | None) -> Place | None:
    """None where it is the campaign, and not the product, that knocks at the door."""
    step: Step | Call | None = None
    saga: Saga | None = None
    handler: Handler | None = None
    task = edge = ""
    part = DO
    innermost = True
    while frame:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] in OURS and module != __name__:
            if module.startswith(HARNESS):
                if innermost:
                    return None
                break
            innermost = False
            if module.split(".")[0] not in WIRING:
                edge = f"{module}.{frame.f_code.co_qualname}"
            task = task or _tasks().get(frame.f_code, "")
            for value in list(frame.f_locals.values()):
                if isinstance(value, Step | Call):
                    step = step or value
                elif isinstance(value, Saga):
                    saga = saga or value
                elif isinstance(value, Handler):
                    handler = handler or value
                elif getattr(value, "state", "") == "compensating" and hasattr(value, "current_step"):
                    part = UNDO
        frame = frame.f_back
    if saga:
        return Place(SAGA, saga.name, step.name if step else "", part if step else "")
    if handler:
        return Place(HANDLER, handler.name)
    return Place(TASK, task) if task else Place(EDGE, edge)


@cache
def _tasks() -> dict[CodeType, str]:
    return {task.run.__code__: name for name, task in current_app.tasks.items()}


# --- The doors --------------------------------------------------------------------------------------

Tell = Callable[[str, str], None]


def _watch_commits(tell: Tell) -> None:
    """Each COMMIT of a transaction that wrote, and each statement outside of one that writes: it commits by itself."""
    commit = BaseDatabaseWrapper._commit  # type: ignore[attr-defined]

    def watched(self: BaseDatabaseWrapper) -> Any:
        wrote = self.connection is not None and _wrote(self)
        if wrote:
            tell(COMMIT, BEFORE)
        commit(self)
        if wrote:
            tell(COMMIT, AFTER)

    def statement(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        commits = not connection.in_atomic_block and connection.get_autocommit() and _WRITES.match(str(sql))
        if commits:
            tell(COMMIT, BEFORE)
        result = execute(sql, params, many, context)
        if commits:
            tell(COMMIT, AFTER)
        return result

    BaseDatabaseWrapper._commit = watched  # type: ignore[attr-defined]
    connection.execute_wrappers.append(statement)


def _wrote(database: Any) -> bool:
    """PostgreSQL gives a transaction an id with its first write."""
    row = database.connection.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").fetchone()
    return bool(row[0])


def _watch_http(tell: Tell) -> None:
    begin, respond, end = (
        http.client.HTTPConnection.putrequest,
        http.client.HTTPConnection.getresponse,
        http.client.HTTPResponse._close_conn,  # type: ignore[attr-defined]
    )

    @wraps(begin)
    def putrequest(self: Any, method: str, url: str, *args: Any, **options: Any) -> Any:
        self.boundary = f"{method} {_AN_ID.sub('/…', url.partition('?')[0])}"
        tell(self.boundary, BEFORE)
        return begin(self, method, url, *args, **options)

    @wraps(respond)
    def getresponse(self: Any, *args: Any, **options: Any) -> Any:
        tell(self.boundary, SENT)
        response = respond(self, *args, **options)
        response.boundary = self.boundary  # type: ignore[attr-defined]
        return response

    @wraps(end)
    def close(self: Any) -> Any:
        end(self)
        what = self.__dict__.pop("boundary", "")
        if what:
            tell(what, AFTER)

    http.client.HTTPConnection.putrequest = putrequest  # type: ignore[method-assign]
    http.client.HTTPConnection.getresponse = getresponse  # type: ignore[method-assign]
    http.client.HTTPResponse._close_conn = close  # type: ignore[attr-defined]


def _watch_mail(tell: Tell) -> None:
    send = EmailMessage.send

    @wraps(send)
    def watched(self: EmailMessage, *args: Any, **options: Any) -> int:
        tell("the mail", BEFORE)
        sent = send(self, *args, **options)
        tell("the mail", AFTER)
        return sent

    EmailMessage.send = watched  # type: ignore[method-assign]


def _watch_redis(tell: Tell) -> None:
    """What the product itself writes to Redis: the expiry timer, the stream."""
    execute, execute_all = Redis.execute_command, Pipeline.execute

    @wraps(execute)
    def watched(self: Any, *args: Any, **options: Any) -> Any:
        what = _redis_write(self, args)
        if what:
            tell(what, BEFORE)
        result = execute(self, *args, **options)
        if what:
            tell(what, AFTER)
        return result

    @wraps(execute_all)
    def watched_pipeline(self: Any, *args: Any, **options: Any) -> Any:
        writes = [what for command, _ in self.command_stack if (what := _redis_write(self, command))]
        if writes:
            tell(f"{writes[0]} in a pipeline", BEFORE)
        result = execute_all(self, *args, **options)
        if writes:
            tell(f"{writes[0]} in a pipeline", AFTER)
        return result

    Redis.execute_command = watched  # type: ignore[method-assign]
    Pipeline.execute = watched_pipeline  # type: ignore[method-assign]


def _redis_write(used: Any, command: Any) -> str:
    """The command, if it is a write of the product's own client (Celery and the cache have theirs)."""
    name = str(command[0])
    if used.connection_pool is not redis_client().connection_pool or any(
        name in str(command[1:4]) for name in _CHANGES_NOTHING
    ):
        return ""
    reads = name.startswith(_READS_OF_REDIS) and name not in _WRITES_OF_REDIS
    return "" if reads else f"Redis {name}"
