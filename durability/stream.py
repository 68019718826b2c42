"""Mirrors messages to a Redis stream for consumers outside: at least once, in batches, in the order of the messages.

One writer at a time, under a lease: so what one key's messages say is in order in the stream, however many workers there
are. The lease's stamp (milliseconds of PostgreSQL's clock, always rising) is the first half of each entry's id. Redis takes
no id below the last one, so a writer that slept through the end of its lease cannot write behind its successor's back; a
writer that died in between is followed by one that writes the batch again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Max, Min
from redis.exceptions import ResponseError

from durability import doorbell
from durability.errors import LeaseLost, StreamBusy
from durability.models import Message
from foundation.redis import client

log = logging.getLogger(__name__)

Row = tuple[int, str, str, str]  # id, name, key, payload as the JSON text that PostgreSQL gives

# No write where nothing is to be done: this runs every second.
_TAKE = """
INSERT INTO durability_streamwriter AS writer (stream, stamp, leased_until)
SELECT %(stream)s, floor(extract(epoch FROM clock_timestamp()) * 1000),
       clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE %(to_refill)s OR EXISTS (SELECT FROM durability_message WHERE state = 'pending')
ON CONFLICT (stream) DO UPDATE
SET stamp = greatest(writer.stamp + 1, excluded.stamp), leased_until = excluded.leased_until
WHERE writer.leased_until <= clock_timestamp()
RETURNING stamp
"""
_RENEW = """
UPDATE durability_streamwriter SET leased_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE stream = %(stream)s AND stamp = %(stamp)s
"""
_GIVE_BACK = """
UPDATE durability_streamwriter SET leased_until = clock_timestamp(), stamp = greatest(stamp, %(at_least)s)
WHERE stream = %(stream)s AND stamp = %(stamp)s
"""
_PENDING = """
SELECT id, name, key, payload::text FROM durability_message WHERE state = 'pending' ORDER BY id LIMIT %(limit)s
"""
# Who has lost the lease marks nothing.
_MARK = """
UPDATE durability_message SET state = 'published', published_at = clock_timestamp()
WHERE id = ANY(%(ids)s)
  AND EXISTS (SELECT FROM durability_streamwriter WHERE stream = %(stream)s AND stamp = %(stamp)s)
"""
_PUBLISHED = """
SELECT id, name, key, payload::text FROM durability_message
WHERE id > %(after)s AND id <= %(to)s AND state = 'published' ORDER BY id LIMIT %(limit)s
"""


# A batch as one script: Redis writes all of it or nothing, and it costs half of what as many pipelined commands do.
_WRITE = """
local longest, stamp, number = ARGV[1], ARGV[2], tonumber(ARGV[3])
for at = 4, #ARGV, 4 do
    local entry = stamp .. "-" .. string.format("%d", number)
    redis.call("XADD", KEYS[1], entry, "id", ARGV[at], "type", ARGV[at + 1], "key", ARGV[at + 2], "payload", ARGV[at + 3])
    number = number + 1
end
redis.call("XTRIM", KEYS[1], "MAXLEN", "~", longest)
"""


class _Writer:
    """The right to write to the stream until the lease ends."""

    def __init__(self, stamp: int) -> None:
        self._stamp = stamp
        self._written = 0

    def write(self, rows: Sequence[Row]) -> None:
        """One round trip, in no transaction. Raises LeaseLost where a successor has written already."""
        entries = [part for row in rows for part in row]
        try:
            client().eval(
                _WRITE,
                1,
                settings.OUTBOX_STREAM,
                settings.OUTBOX_STREAM_MAX_LENGTH,
                self._stamp,
                self._written,
                *entries,
            )
        except ResponseError as refusal:
            if "equal or smaller" not in str(refusal):
                raise
            raise LeaseLost from refusal
        self._written += len(rows)

    def mark(self, rows: Sequence[Row]) -> None:
        self._do(_MARK, ids=[row[0] for row in rows])

    def renew(self) -> None:
        self._do(_RENEW, lease_s=settings.LEASE_S)

    def _do(self, statement: str, **values: Any) -> None:
        """Raises LeaseLost where somebody else has taken over."""
        with connection.cursor() as cursor:
            cursor.execute(statement, {"stream": settings.OUTBOX_STREAM, "stamp": self._stamp, **values})
            if not cursor.rowcount:
                raise LeaseLost


@contextmanager
def _writing(*, to_refill: bool = False) -> Iterator[_Writer | None]:
    """The lease for the block; None where somebody has it, or where nothing waits to be mirrored."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, {"stream": settings.OUTBOX_STREAM, "lease_s": settings.LEASE_S, "to_refill": to_refill})
        taken = cursor.fetchone()
    if taken is None:
        yield None
        return
    stamp = int(taken[0])
    at_least = 0
    try:
        yield _Writer(stamp)
    except LeaseLost:
        # Or it is ours, and the stream is ahead of PostgreSQL's clock: it was set back, or restored.
        at_least = _newest_stamp()
        raise
    finally:
        with connection.cursor() as cursor:
            cursor.execute(_GIVE_BACK, {"stream": settings.OUTBOX_STREAM, "stamp": stamp, "at_least": at_least})


def _newest_stamp() -> int:
    return int(client().xinfo_stream(settings.OUTBOX_STREAM)["last-generated-id"].partition("-")[0])


def mirror() -> int:
    """Write what is pending to the stream, for WORK_FOR_S at most. Returns how many messages."""
    until, written = time.monotonic() + settings.WORK_FOR_S, 0
    while batch := mirror_batch():
        written += batch
        if time.monotonic() > until:
            doorbell.ring(bell="mirror")
            break
    return written


def mirror_batch() -> int:
    """Write one batch of pending messages to the stream. Returns how many; 0 also where another worker is at it."""
    try:
        with _writing() as writer:
            if writer is None:
                return 0
            with connection.cursor() as cursor:
                cursor.execute(_PENDING, {"limit": settings.OUTBOX_STREAM_BATCH})
                rows: list[Row] = cursor.fetchall()
            if rows:
                writer.write(rows)
                writer.mark(rows)
            return len(rows)
    except LeaseLost:
        log.warning("the stream is written by another worker")
        return 0


def first_since(moment: datetime) -> int | None:
    """The id of the first message that is kept from a moment on; None if there is none."""
    first: int | None = Message.objects.filter(created_at__gte=moment).aggregate(id=Min("pk"))["id"]
    return first


def refill(*, from_id: int = 0, tell: Callable[[int, int, int], None] = lambda written, at, to: None) -> int:
    """Write published messages that are still kept to the stream again, from an id on. Returns how many.

    Holds the lease throughout, so that nothing new overtakes what is older; what is published meanwhile waits. `tell` is
    called after each batch: how many were written, up to which id, and the last id. Raises StreamBusy, and LeaseLost.
    """
    with _writing(to_refill=True) as writer:
        if writer is None:
            raise StreamBusy
        to = Message.objects.aggregate(id=Max("pk"))["id"] or 0
        after, written = from_id - 1, 0
        while True:
            with connection.cursor() as cursor:
                limit = settings.OUTBOX_STREAM_BATCH
                cursor.execute(_PUBLISHED, {"after": after, "to": to, "limit": limit})
                rows: list[Row] = cursor.fetchall()
            if not rows:
                return written
            writer.write(rows)
            writer.renew()
            after, written = rows[-1][0], written + len(rows)
            tell(written, after, to)
