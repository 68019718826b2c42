"""How webhooks reach the merchant: as they should, or held, dropped, doubled, shuffled.

drop, duplicate and shuffle take hold of an event when it happens. hold stops all sending; leaving it delivers at once what
was held, also what waited for its next retry, in the manner of the new mode (drop: in order; only later events are lost).
"""

import random
import time

from payments.sandbox.account import Account

MODES = ("normal", "hold", "drop", "duplicate", "shuffle")
# In shuffle mode each delivery waits a random part of this.
SHUFFLE_OVER_S = 1.0


def change(account: Account, mode: str, copies: int) -> None:
    """`copies` counts for duplicate: how often each event is delivered in all."""
    held = account.webhook_mode == "hold"
    account.set("webhook_mode", mode)
    account.set("webhook_copies", copies)
    if not held or mode == "hold":
        return
    if mode not in {"duplicate", "shuffle"}:
        account.store.execute("UPDATE deliveries SET due_at = min(due_at, ?)", (time.time(),))
        return
    waiting = account.store.execute("SELECT event_id FROM deliveries ORDER BY due_at, seq").fetchall()
    account.store.execute("DELETE FROM deliveries")
    for (event_id,) in waiting:
        schedule(account, event_id)


def schedule(account: Account, event_id: str) -> None:
    """Owe the endpoint this event, as the mode wants it."""
    if account.config.webhook_url is None or account.webhook_mode == "drop":
        return
    account.work_left = True
    now = time.time()
    copies = account.webhook_copies if account.webhook_mode == "duplicate" else 1
    for _ in range(copies):
        due_at = now + random.random() * SHUFFLE_OVER_S if account.webhook_mode == "shuffle" else now
        account.store.execute(
            "INSERT INTO deliveries (event_id, due_at, first_due_at) VALUES (?, ?, ?)", (event_id, due_at, now)
        )
