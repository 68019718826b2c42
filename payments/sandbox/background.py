"""What happens by itself: webhooks are sent and retried, and jobs come due. All of it survives a restart.

One thread watches the clock and hands deliveries to a few senders. A delivery is forgotten only after the endpoint said
2xx (or after three days), so a crash in between sends it again: at least once, as Stripe does.
"""

import hashlib
import hmac
import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from payments.sandbox import charges, disputes, intents, refunds, views
from payments.sandbox.account import Account

SENDERS = 4
SEND_TIMEOUT_S = 10.0
LONGEST_RETRY_S = 60.0
GIVE_UP_AFTER_S = 3 * 86400

JOBS: dict[str, Callable[[Account, str], None]] = {
    "settle": charges.settle,
    "refund_news": refunds.news,
    "finish_processing": intents.finish_processing,
    "dispute": disputes.open_by_card,
}


@dataclass(frozen=True)
class Delivery:
    seq: int
    attempts: int
    first_due_at: float
    body: bytes


def start(account: Account) -> None:
    """Daemon threads: they end with the process, and what they had in hand is taken up by the next one."""
    _Background(account).start()


class _Background:
    def __init__(self, account: Account) -> None:
        self.account = account
        self.inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.in_hand: set[int] = set()  # guarded by the account's lock

    def start(self) -> None:
        threading.Thread(target=self._watch, name="clock", daemon=True).start()
        if self.account.config.webhook_url is not None:
            for number in range(SENDERS):
                threading.Thread(target=self._send_all, name=f"sender-{number}", daemon=True).start()

    def _watch(self) -> None:
        account = self.account
        while True:
            seen = account.rings
            self._run_due_jobs()
            wait_s = self._hand_out()
            with account.doorbell:
                account.doorbell.wait_for(lambda seen=seen: account.rings != seen, timeout=wait_s)  # type: ignore[misc]

    def _run_due_jobs(self) -> None:
        account = self.account
        while True:
            with account.lock:
                row = account.store.execute(
                    "SELECT seq, name, object_id FROM jobs WHERE due_at <= ? ORDER BY due_at, seq LIMIT 1",
                    (time.time(),),
                ).fetchone()
            if row is None:
                return
            seq, name, object_id = row
            with account.transaction():
                account.store.execute("DELETE FROM jobs WHERE seq = ?", (seq,))
                try:
                    with account.undo_on_error():
                        JOBS[name](account, object_id)
                except Exception:  # noqa: BLE001  (one bad job must not stop the others)
                    traceback.print_exc(file=sys.stderr)

    def _hand_out(self) -> float | None:
        """Give due deliveries to idle senders; seconds until there may be more to do, None when only a ring can tell."""
        account, now = self.account, time.time()
        with account.lock:
            execute = account.store.execute
            due_next: list[float] = [row[0] for row in execute("SELECT min(due_at) FROM jobs") if row[0] is not None]
            free = SENDERS - len(self.in_hand)
            if account.config.webhook_url is not None and account.webhook_mode != "hold" and free:
                rows = execute(
                    "SELECT d.seq, d.due_at, d.first_due_at, d.attempts, e.body FROM deliveries d"
                    " JOIN objects e ON e.id = d.event_id WHERE d.seq NOT IN (SELECT value FROM json_each(?))"
                    " ORDER BY d.due_at, d.seq LIMIT ?",
                    (json.dumps(list(self.in_hand)), free),
                ).fetchall()
                for seq, due_at, first_due_at, attempts, event in rows:
                    if due_at > now:
                        due_next.append(due_at)
                        break
                    self.in_hand.add(seq)
                    body = json.dumps(views.present(account, json.loads(event))).encode()
                    self.inbox.put(Delivery(seq, attempts, first_due_at, body))
        return max(0.0, min(due_next) - time.time()) if due_next else None

    def _send_all(self) -> None:
        endpoint = Endpoint(self.account.config.webhook_url or "", self.account.config.webhook_secret)
        while True:
            delivery = self.inbox.get()
            delivered = endpoint.send(delivery.body)
            with self.account.transaction():
                self._record(delivery, delivered=delivered)
                self.in_hand.discard(delivery.seq)
            self.account.ring()

    def _record(self, delivery: Delivery, *, delivered: bool) -> None:
        now = time.time()
        execute = self.account.store.execute
        if delivered or now - delivery.first_due_at > GIVE_UP_AFTER_S:
            execute("DELETE FROM deliveries WHERE seq = ?", (delivery.seq,))
            return
        retry_at = now + min(2.0 ** min(delivery.attempts, 16), LONGEST_RETRY_S)
        execute(
            "UPDATE deliveries SET due_at = ?, attempts = ? WHERE seq = ?",
            (retry_at, delivery.attempts + 1, delivery.seq),
        )


class Endpoint:
    """One sender's connection to the merchant, kept open between deliveries."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = urlsplit(url)
        self._secret = secret.encode()
        self._connection: HTTPConnection | None = None

    def send(self, body: bytes) -> bool:
        """True when the endpoint answered 2xx."""
        reused = self._connection is not None
        try:
            return self._post(body)
        except (OSError, HTTPException):
            self._close()
            if not reused:
                return False
        try:  # a kept connection may simply have been closed by the other side
            return self._post(body)
        except (OSError, HTTPException):
            self._close()
            return False

    def _post(self, body: bytes) -> bool:
        if self._connection is None:
            make = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
            self._connection = make(self._url.hostname or "", self._url.port, timeout=SEND_TIMEOUT_S)
        target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (everycent-sandbox)",
            "Stripe-Signature": sign(body, self._secret, int(time.time())),
        }
        self._connection.request("POST", target, body, headers)
        response = self._connection.getresponse()
        response.read()
        if response.will_close:
            self._close()
        return 200 <= response.status < 300

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def sign(body: bytes, secret: bytes, timestamp: int) -> str:
    """The `Stripe-Signature` header: HMAC-SHA256 over `timestamp.body`; always by real time."""
    signature = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={signature}"
