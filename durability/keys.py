"""Idempotency keys: insert first, then look. A concurrent twin waits on the unique index until the first one ends."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from durability.errors import IdempotencyKeyInUse, IdempotencyKeyMissing, IdempotencyKeyReused
from durability.models import IdempotencyKey
from durability.types import Answer, Claimed, Fingerprint

_LONGEST_KEY = 255
_LONGEST_PATH = 300


def bare_key(header: str | None) -> str:
    """Raises IdempotencyKeyMissing. A key may be bare or a quoted string (IETF draft)."""
    bare = header or ""
    if len(bare) >= 2 and bare[0] == bare[-1] == '"':
        bare = bare[1:-1]
    if not 1 <= len(bare) <= _LONGEST_KEY or not bare.isprintable():
        raise IdempotencyKeyMissing(param="Idempotency-Key")
    return bare


def fingerprint(*, caller: UUID, key: str | None, method: str, path: str, body: Mapping[str, Any]) -> Fingerprint:
    """Raises IdempotencyKeyMissing. The body is hashed canonically."""
    bare = bare_key(key)
    if len(path) > _LONGEST_PATH:  # names no object of ours; the view will say so
        path = f"sha256:{hashlib.sha256(path.encode()).hexdigest()}"
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Fingerprint(caller, bare, method, path, hashlib.sha256(canonical.encode()).digest())


def claim(wanted: Fingerprint) -> Claimed:
    """Insert the key in the caller's transaction, or find what it stood for. Raises IdempotencyKeyReused."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT durability_claim_key(%s::jsonb)", [json.dumps(record(wanted))])
        (inserted,) = cursor.fetchone()
    if inserted:
        return Claimed(inserted, is_new=True, subject="", answer=None)
    return used_before(wanted)


def record(wanted: Fingerprint, *, subject: str = "", answer: Answer | None = None) -> dict[str, Any]:
    """A key as `durability_claim_key` takes it: with what it made, and with its answer where that is final already."""
    row = {
        "caller": str(wanted.caller),
        "key": wanted.key,
        "method": wanted.method,
        "path": wanted.path,
        "body_hash": wanted.body_hash.hex(),
        "subject": subject,
    }
    return row | ({"status": answer.status, "body": answer.body} if answer else {})


def earlier(wanted: Fingerprint) -> Claimed | None:
    """What the key stands for already, once a twin that is at it has ended. None where it is free, and then it stays so.

    Belongs outside of transactions. Raises IdempotencyKeyReused.
    """
    with transaction.atomic(durable=True):
        claimed = claim(wanted)
        if claimed.is_new:
            transaction.set_rollback(True)
    return None if claimed.is_new else claimed


def used_before(wanted: Fingerprint) -> Claimed:
    """What a key stands for that somebody has claimed. Raises IdempotencyKeyReused, IdempotencyKeyInUse."""
    stored = IdempotencyKey.objects.filter(caller=wanted.caller, key=wanted.key).first()
    if stored is None:  # cleaned up between the two statements
        raise IdempotencyKeyInUse
    same = (stored.method, stored.path, bytes(stored.body_hash)) == (wanted.method, wanted.path, wanted.body_hash)
    if not same:
        raise IdempotencyKeyReused(param="Idempotency-Key")
    answer = None if stored.status is None else Answer(stored.status, dict(stored.body or {}))
    return Claimed(stored.pk, is_new=False, subject=stored.subject, answer=answer)


def bind(claimed: Claimed, *, subject: str) -> None:
    """Remember, in the same transaction, which object a retry goes on with."""
    IdempotencyKey.objects.filter(pk=claimed.id).update(subject=subject)


def store(claimed: Claimed, answer: Answer) -> Answer:
    """Keep a final answer. The first one stays: a twin that finished later gets it back."""
    kept = IdempotencyKey.objects.filter(pk=claimed.id, status__isnull=True).update(
        status=answer.status, body=answer.body
    )
    stored = None if kept else IdempotencyKey.objects.filter(pk=claimed.id).first()
    if stored is None or stored.status is None:  # just stored; or a twin was refused and gave the key back
        return answer
    return Answer(stored.status, dict(stored.body or {}))


def release(claimed: Claimed) -> None:
    """Give a key back that came to a refusal: the next request with it begins anew. What has an answer keeps it."""
    IdempotencyKey.objects.filter(pk=claimed.id, status__isnull=True).delete()
