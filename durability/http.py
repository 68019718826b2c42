"""The `Idempotency-Key` of a POST: one effect and one answer per key, whatever the client and the network do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from django.db import OperationalError
from rest_framework.request import Request
from rest_framework.response import Response

from durability import keys
from durability.errors import IdempotencyKeyInUse, IdempotencyKeyReused
from durability.metrics import IDEMPOTENCY
from durability.types import Answer, Claimed, Fingerprint, NoAnswer
from foundation.api import PROBLEM_TYPE
from foundation.database import LOCK_NOT_AVAILABLE, in_transaction, sqlstate
from foundation.logs import named, note
from foundation.permissions import caller

Decorate = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def _conflicts_counted() -> Iterator[None]:
    """Counts what is refused because the key is another request's: one that runs (409), or another one (422)."""
    try:
        yield
    except IdempotencyKeyReused:
        IDEMPOTENCY.labels("mismatch").inc()
        raise
    except (IdempotencyKeyInUse, OperationalError) as error:
        # At lock_timeout the twin that waited on the unique index (or on a row that both need) gets the same 409.
        if isinstance(error, IdempotencyKeyInUse) or sqlstate(error) == LOCK_NOT_AVAILABLE:
            IDEMPOTENCY.labels("conflict").inc()
        raise


@_conflicts_counted()
def answer_once(request: Request, effect: Callable[[], Answer]) -> Response:
    """Key, effect and stored answer commit in one transaction; a refusal rolls back and consumes no key.

    A deadlock makes `effect` run again.
    """
    wanted = _fingerprint(request)

    def claim_and_answer() -> tuple[Answer, bool]:
        claimed = keys.claim(wanted)
        if claimed.answer:
            return claimed.answer, True
        return keys.store(claimed, effect()), False

    answer, replayed = in_transaction(claim_and_answer)
    return _response(answer, replayed=replayed)


def answer_in_two(
    request: Request,
    *,
    begin: Callable[[], str],
    finish: Callable[[str], Answer | NoAnswer],
    decorate: Decorate = lambda body: body,
) -> Response:
    """For a POST that calls out. `begin` commits with the key and returns the object that it made; `finish` goes on
    with that object, outside of any transaction, and answers. A retry that finds no stored answer finishes too. Where
    `finish` has NoAnswer the key is given back, and a retry begins anew.

    `decorate` adds what is never stored (a client_secret) to the answer, fresh or replayed. A deadlock makes `begin` run
    again.
    """

    def claim_and_begin(wanted: Fingerprint) -> Claimed:
        def work() -> Claimed:
            claimed = keys.claim(wanted)
            if not claimed.is_new:
                return claimed
            subject = begin()
            keys.bind(claimed, subject=subject)
            return replace(claimed, subject=subject)

        return in_transaction(work)

    return answer_begun(request, begin=claim_and_begin, finish=finish, decorate=decorate)


@_conflicts_counted()
def answer_begun(
    request: Request,
    *,
    begin: Callable[[Fingerprint], Claimed],
    finish: Callable[[str], Answer | NoAnswer],
    decorate: Decorate = lambda body: body,
) -> Response:
    """The same where `begin` itself takes the key, in the transaction of what it makes; it may store the answer there, too."""
    claimed = begin(_fingerprint(request))
    note(**named(claimed.subject))
    if claimed.answer:
        return _response(claimed.answer, replayed=not claimed.is_new, decorate=decorate)
    answer = finish(claimed.subject)
    if isinstance(answer, NoAnswer):
        keys.release(claimed)
        raise answer.refusal
    if answer.final:
        answer = keys.store(claimed, answer)
    return _response(answer, replayed=False, decorate=decorate)


def idempotency_key(request: Request) -> str:
    """The request's key without quotes, for effects that keep it. Raises IdempotencyKeyMissing."""
    return keys.bare_key(request.headers.get("Idempotency-Key"))


def _fingerprint(request: Request) -> Fingerprint:
    return keys.fingerprint(
        caller=caller(request).merchant_id,
        key=request.headers.get("Idempotency-Key"),
        method=request.method or "",
        path=request.path,
        body=cast(dict[str, Any], request.data),
    )


def _response(answer: Answer, *, replayed: bool, decorate: Decorate = lambda body: body) -> Response:
    headers = {"Cache-Control": "no-store"}  # what `decorate` adds is for this caller alone
    if replayed:
        IDEMPOTENCY.labels("replayed").inc()
        headers["Idempotent-Replayed"] = "true"
    content_type = PROBLEM_TYPE if answer.status >= 400 else None
    return Response(decorate(answer.body), status=answer.status, headers=headers, content_type=content_type)
