"""Idempotency keys as Stripe treats them: the first answer once execution has begun is kept, 500s included, and replayed."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from payments.sandbox.account import ACCOUNT_ID, Account
from payments.sandbox.errors import InvalidParameter, KeyInUse, KeyReused
from payments.sandbox.store import Json

KEY_CHARS = 255
KEPT_FOR_S = 24 * 3600  # of real time; Stripe may forget a key after that, the sandbox does


@dataclass(frozen=True)
class Saved:
    status: int
    body: bytes
    request_id: str


class Keys:
    """The keys of the one account. A key in use is known in memory only: no request survives the process."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._in_use: set[str] = set()
        self._guard = threading.Lock()

    @contextmanager
    def using(self, key: str | None) -> Iterator[None]:
        """Raises KeyInUse (409) while another request with this key is under way."""
        if key is None:
            yield
            return
        if not key or len(key) > KEY_CHARS:
            raise InvalidParameter(f"Idempotency keys have 1 to {KEY_CHARS} characters.")
        with self._guard:
            if key in self._in_use:
                raise KeyInUse(key)
            self._in_use.add(key)
        try:
            yield
        finally:
            with self._guard:
                self._in_use.discard(key)

    def find(self, key: str, path: str, fingerprint: str) -> Saved | None:
        """The kept answer; counts the replay. Raises KeyReused (400) when the request is not the first one's twin."""
        row = self._account.store.execute(
            "SELECT path, fingerprint, status, body, request_id FROM idempotency_keys"
            " WHERE account = ? AND key = ? AND saved_at > ?",
            (ACCOUNT_ID, key, time.time() - KEPT_FOR_S),
        ).fetchone()
        if row is None:
            return None
        if row[0] != path:
            raise KeyReused(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for"
                f" ('{path}' vs '{row[0]}'). Try using a key other than '{key}' if you meant to execute a different request."
            )
        if row[1] != fingerprint:
            raise KeyReused(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try"
                f" using a key other than '{key}' if you meant to execute a different request."
            )
        self._account.set("idempotent_replays", self._account.idempotent_replays + 1)
        return Saved(row[2], row[3].encode(), row[4])

    def save(self, key: str, path: str, fingerprint: str, saved: Saved) -> None:
        now = time.time()
        execute = self._account.store.execute
        # A few at a time: the table shrinks as it grows.
        execute(
            "DELETE FROM idempotency_keys WHERE (account, key) IN"
            " (SELECT account, key FROM idempotency_keys WHERE saved_at <= ? ORDER BY saved_at LIMIT 10)",
            (now - KEPT_FOR_S,),
        )
        execute(
            "INSERT INTO idempotency_keys (account, key, path, fingerprint, status, body, request_id, saved_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (ACCOUNT_ID, key, path, fingerprint, saved.status, saved.body.decode(), saved.request_id, now),
        )


def fingerprint(params: Json) -> str:
    """Of the decoded parameters, whatever their order."""
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
