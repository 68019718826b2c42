"""When a stack is at rest: nobody works on anything, and nothing waits that is due."""

import time
from collections.abc import Callable

import psycopg
import requests
from psycopg.rows import dict_row

from tests.stack_process import RunningStack

_POLL_S = 0.2

# What keeps a stack from being at rest → how many rows of it there are.
_RESTLESS = """
SELECT (SELECT count(*) FROM durability_delivery WHERE state IN ('pending', 'running')) AS deliveries,
       (SELECT count(*) FROM durability_sagarun WHERE state IN ('running', 'compensating')) AS sagas,
       (SELECT count(*) FROM durability_message WHERE state = 'pending') AS messages,
       (SELECT count(*) FROM orders_order
        WHERE status = 'pending' AND (expires_at < now() OR cancel_requested_at IS NOT NULL)) AS orders,
       (SELECT count(*) FROM payments_payment WHERE status IN ('unknown', 'processing')) AS payments,
       (SELECT count(*) FROM payments_refund WHERE status IN ('requested', 'processing', 'pending')) AS refunds
"""


class NeverAtRest(Exception):
    """It did not come to rest in time; the text says what is left."""


def wait_for_rest(stack: RunningStack, provider: str, *, timeout_s: float) -> list[str]:
    """Until everything answers and nothing is left to do. What was left on the way there. Raises NeverAtRest.

    Webhooks that failed meanwhile are sent again at once, where the provider would take up to a minute: that pause is
    the provider's, and the time to heal is ours.
    """
    began = time.monotonic()
    trail: list[str] = []
    last = ""
    hurried_at = 0.0
    while (waited_s := time.monotonic() - began) < timeout_s:
        try:
            left = restless(stack)
            requests.get(f"{stack.info['url']}/livez", timeout=5).raise_for_status()
            left["webhooks"] = requests.get(f"{provider}/_sandbox/webhooks", timeout=5).json()["waiting"]
            if left["webhooks"] and waited_s - hurried_at > 1:
                hurried_at = waited_s
                for mode in ("hold", "normal"):
                    requests.post(f"{provider}/_sandbox/webhooks", json={"mode": mode}, timeout=5).raise_for_status()
        except (psycopg.Error, requests.RequestException, OSError, ValueError) as error:
            now = type(error).__name__
        else:
            if not any(left.values()):
                return trail
            now = ", ".join(f"{count} {what}" for what, count in left.items() if count)
        if now != last:
            last = now
            trail.append(f"{waited_s:.1f} s: {now}")
        time.sleep(_POLL_S)
    raise NeverAtRest(f"not within {timeout_s:.0f} s: {'; '.join(trail[-10:])}")


def restless(stack: RunningStack) -> dict[str, int]:
    with psycopg.connect(stack.info["database_url"], connect_timeout=5, row_factory=dict_row) as connection:
        return connection.execute(_RESTLESS).fetchone() or {}


def not_seen(stack: RunningStack, *, since: float, timeout_s: float) -> list[str]:
    """Which of beat and the workers have not proved that they live since that moment (seconds since the epoch)."""
    question = "SELECT name FROM durability_heartbeat WHERE seen_at <= to_timestamp(%s) ORDER BY name"
    silent: list[str] = []

    def all_seen() -> bool:
        with psycopg.connect(stack.info["database_url"], connect_timeout=5) as connection:
            silent[:] = [name for (name,) in connection.execute(question, [since])]
        return not silent

    _within(all_seen, timeout_s)
    return silent


def _within(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
