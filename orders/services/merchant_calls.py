"""What merchants' own systems are told: news are written down, then sent until they are answered.

A handler writes a call into our own database, once a piece of news. One worker at a time sends what is due: many merchants
at once, a few calls to each, so that one who is slow, or never answers, holds up nobody else. A call is counted and put off
to its next try *before* it is made: a process that dies of it has changed nothing.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from catalog import selectors as catalog
from catalog.types import WebhookEndpoint
from durability.types import Event
from foundation import webhooks
from foundation.database import delete_in_batches
from foundation.errors import IllegalTransition, InvalidInput
from foundation.ids import public_id
from foundation.logs import bound, bound_id
from orders.models import MerchantCall

log = logging.getLogger(__name__)

_LOCK = 0x6D657263  # of whoever sends, among the database's advisory locks
_LOOK_AGAIN_S = 0.2  # while somebody's answer is waited for: others' news
_SLOW_S = 1.0
_REST = 3  # a merchant that was slow rests for so many times as long: it never fills the sockets
_SENT_AGAIN_AT_MOST = 10_000  # by one press of a button: one statement of a second
_BY_ITSELF = ""  # nobody decided it

# Merchants with something to send, one after the other through the index; of each the first few that are due.
_CLAIM = """
WITH RECURSIVE merchant AS (
    (SELECT merchant_id FROM orders_merchantcall WHERE state = 'pending' ORDER BY merchant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT call.merchant_id FROM orders_merchantcall call
            WHERE call.state = 'pending' AND call.merchant_id > merchant.merchant_id ORDER BY call.merchant_id LIMIT 1)
    FROM merchant WHERE merchant.merchant_id IS NOT NULL
),
head AS (
    SELECT due.id
    FROM merchant
    LEFT JOIN unnest(%(busy)s::uuid[], %(calls)s::int[]) AS busy (merchant_id, calls) USING (merchant_id)
    CROSS JOIN LATERAL (
        SELECT call.id, call.available_at FROM orders_merchantcall call
        WHERE call.state = 'pending' AND call.merchant_id = merchant.merchant_id
          AND call.available_at <= statement_timestamp()
        ORDER BY call.available_at, call.id
        LIMIT greatest(0, %(each)s - coalesce(busy.calls, 0))
    ) AS due
    ORDER BY due.available_at
    LIMIT %(limit)s
)
UPDATE orders_merchantcall call
SET attempts = call.attempts + 1, last_tried_at = clock_timestamp(),
    available_at = clock_timestamp() + make_interval(
        secs => (%(pauses_s)s::float8[])[least(call.attempts + 1, cardinality(%(pauses_s)s::float8[]))]
                * (0.8 + 0.4 * random()))
WHERE call.id = ANY (ARRAY(SELECT id FROM head)) AND call.state = 'pending' AND call.available_at <= statement_timestamp()
RETURNING call.id, call.merchant_id, call.event, call.payload, call.request_id, call.attempts, call.created_at
"""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that is counted, and to be made now."""

    id: UUID
    merchant_id: UUID
    event: str
    payload: dict[str, Any]
    request_id: str
    attempt: int
    created_at: datetime

    @property
    def number(self) -> str:
        return public_id(MerchantCall.PREFIX, self.id)

    @property
    def body(self) -> bytes:
        moment = self.created_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document = {"type": self.event, "timestamp": moment, "data": self.payload}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a call ended: `answer` is for people."""

    delivered: bool
    answer: str
    took_s: float


# --- Written down -----------------------------------------------------------------------------------


def tell(*, merchant_id: str, event: Event, subject: str) -> None:
    """Write down that a merchant is to be told of an event about `subject` (a number), in the caller's transaction.

    Does nothing for one who named no address.
    """
    if catalog.wants_to_be_told(UUID(merchant_id)):
        MerchantCall.objects.create(
            merchant_id=merchant_id,
            event=event.name,
            subject=subject,
            payload=event.payload(),
            request_id=bound_id("request_id"),
        )


# --- Sent -------------------------------------------------------------------------------------------


def call_due() -> int:
    """Make the calls that are due, for MERCHANT_CALLS_RUN_S at most. Returns how many were made.

    Does nothing where another process is at it. Belongs outside of transactions.
    """
    with _alone() as alone, ThreadPoolExecutor(settings.MERCHANT_CALLS_AT_ONCE, "merchant") as sockets:
        return _make_calls(sockets) if alone else 0


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether nobody else sends; while the block runs, nobody will. PostgreSQL lets go of it when the process dies."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        alone = bool(cursor.fetchone()[0])
    try:
        yield alone
    finally:
        if alone:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _make_calls(sockets: ThreadPoolExecutor) -> int:
    """The threads wait for merchants; all that concerns the database is done here."""
    end = time.monotonic() + settings.MERCHANT_CALLS_RUN_S
    under_way: dict[Future[_Outcome], _Call] = {}
    made = 0
    while True:
        free = settings.MERCHANT_CALLS_AT_ONCE - len(under_way)
        if free and time.monotonic() < end:
            for one, endpoint in _claim(under_way.values(), limit=free):
                under_way[sockets.submit(_call, one, endpoint)] = one
        if not under_way:
            return made
        answered, _ = wait(under_way, timeout=_LOOK_AGAIN_S, return_when=FIRST_COMPLETED)
        for future in answered:
            one, outcome = under_way.pop(future), future.result()
            _record(one, outcome)
            _let_rest(one.merchant_id, outcome.took_s)
            made += 1


def _claim(under_way: Iterable[_Call], *, limit: int) -> list[tuple[_Call, WebhookEndpoint]]:
    """Count the first due calls of each merchant, those that wait longest first, and put them off to their next try."""
    busy = Counter(one.merchant_id for one in under_way)
    busy.update(dict.fromkeys(_resting(), settings.MERCHANT_CALLS_AT_ONCE_EACH))
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(
            _CLAIM,
            {
                "busy": list(busy),
                "calls": list(busy.values()),
                "each": settings.MERCHANT_CALLS_AT_ONCE_EACH,
                "limit": limit,
                "pauses_s": list(settings.MERCHANT_CALL_PAUSES_S),
            },
        )
        rows = cursor.fetchall()
    claimed = [_Call(row[0], row[1], row[2], json.loads(row[3]), *row[4:]) for row in rows]
    endpoints = catalog.webhook_endpoints({one.merchant_id for one in claimed}) if claimed else {}
    gone = [one.id for one in claimed if one.merchant_id not in endpoints]
    if gone:
        MerchantCall.objects.filter(pk__in=gone, state=MerchantCall.State.PENDING).update(
            state=MerchantCall.State.DROPPED,
            decided_by=_BY_ITSELF,
            decided_reason="the merchant has no webhook address any more",
        )
    return [(one, endpoints[one.merchant_id]) for one in claimed if one.merchant_id in endpoints]


def _call(one: _Call, endpoint: WebhookEndpoint) -> _Outcome:
    """In a thread, without a word to the database."""
    began = time.monotonic()
    try:
        status = webhooks.post(url=endpoint.url, secrets=endpoint.secrets, message_id=one.number, body=one.body)
        delivered, answer = True, f"answered {status}"
    except webhooks.WebhookFailed as error:
        delivered, answer = False, str(error)
    except Exception as error:  # noqa: BLE001  whatever it is: it must not end the calls of the others
        delivered, answer = False, f"{type(error).__name__}: {error}"
    took_s = time.monotonic() - began
    return _Outcome(delivered, f"{answer}, after {took_s * 1000:.0f} ms", took_s)


def _record(one: _Call, outcome: _Outcome) -> None:
    mine = MerchantCall.objects.filter(pk=one.id, state=MerchantCall.State.PENDING)
    with bound(request_id=one.request_id, merchant_call=one.number):
        if outcome.delivered:
            mine.update(state=MerchantCall.State.DELIVERED, delivered_at=Now(), last_answer=outcome.answer)
            return
        log.warning("call %s (%s), attempt %s: %s", one.number, one.event, one.attempt, outcome.answer)
        is_last = one.attempt > len(settings.MERCHANT_CALL_PAUSES_S)
        state = MerchantCall.State.GIVEN_UP if is_last else MerchantCall.State.PENDING
        # Where a person had it sent again meanwhile, its attempts count anew: this one says nothing any more.
        given_up = mine.filter(attempts=one.attempt).update(state=state, last_answer=outcome.answer) and is_last
        if given_up:
            log.error("call %s is given up after %s attempts: an operator sends it again", one.number, one.attempt)


# --- Who is slow rests, in this process -------------------------------------------------------------

_rest_until_s: dict[UUID, float] = {}


def _let_rest(merchant_id: UUID, took_s: float) -> None:
    if took_s > _SLOW_S:
        _rest_until_s[merchant_id] = time.monotonic() + _REST * took_s


def _resting() -> list[UUID]:
    now = time.monotonic()
    for merchant_id in [merchant_id for merchant_id, until in _rest_until_s.items() if until <= now]:
        del _rest_until_s[merchant_id]
    return list(_rest_until_s)


def forget_rests() -> None:
    """Let everybody be called again at once."""
    _rest_until_s.clear()


# --- Decided by people ------------------------------------------------------------------------------


def send_again(*, call_id: UUID, by: str) -> None:
    """Send a call once more, under its own id, with a fresh set of attempts. Raises IllegalTransition."""
    if not _again(MerchantCall.objects.filter(pk=call_id), by=by):
        raise IllegalTransition("This call is being sent already.")


def send_again_since(*, call_id: UUID, by: str) -> int:
    """The same for this call and all later ones to its merchant, but for those that a person dropped.

    At most _SENT_AGAIN_AT_MOST, the oldest first. Returns how many.
    """
    first = MerchantCall.objects.get(pk=call_id)
    ended = MerchantCall.objects.exclude(state=MerchantCall.State.PENDING).exclude(
        ~Q(decided_by=_BY_ITSELF), state=MerchantCall.State.DROPPED
    )
    later = ended.filter(merchant_id=first.merchant_id, pk__gte=first.pk).order_by("merchant_id", "pk")
    return _again(MerchantCall.objects.filter(pk__in=later.values("pk")[:_SENT_AGAIN_AT_MOST]), by=by)


def _again(calls: Any, *, by: str) -> int:
    return int(
        calls.exclude(state=MerchantCall.State.PENDING).update(
            state=MerchantCall.State.PENDING,
            attempts=0,
            available_at=Now(),
            delivered_at=None,
            decided_by=by,
            decided_reason="",
        )
    )


def drop(*, call_id: UUID, by: str, reason: str) -> None:
    """Decide that a call shall not be made any more. Raises InvalidInput without a reason, IllegalTransition."""
    if not reason.strip():
        raise InvalidInput("Say why: the reason is kept with the call.", param="reason")
    open_ones = [MerchantCall.State.PENDING, MerchantCall.State.GIVEN_UP]
    dropped = MerchantCall.objects.filter(pk=call_id, state__in=open_ones).update(
        state=MerchantCall.State.DROPPED, decided_by=by, decided_reason=reason.strip()
    )
    if not dropped:
        raise IllegalTransition("This call was answered, or dropped before.")


# --- Deleted ----------------------------------------------------------------------------------------


def clean_up() -> int:
    """Delete calls of long ago that nothing is left to do for. Returns how many."""
    old = MerchantCall.objects.filter(created_at__lt=Now() - timedelta(days=settings.MERCHANT_CALLS_KEPT_FOR_DAYS))
    return delete_in_batches(old.exclude(state=MerchantCall.State.PENDING), batch=settings.RETENTION_BATCH)
