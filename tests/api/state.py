"""All that a call could change, as one value: compared before and after a call that is refused."""

from typing import Any

import requests
from django.conf import settings
from django.db import connection

from foundation import redis
from orders import timer
from tests import cleaning

_OURS = ("catalog_", "inventory_", "payments_", "orders_", "durability_", "reconciliation_")


def state() -> dict[str, Any]:
    """Every row of every table of ours (but when a key was last used), the expiry timer, the provider's newest intent."""
    tables = [table for table in cleaning.tables() if table.startswith(_OURS)]
    each = " UNION ALL ".join(
        f"SELECT '{table}', count(*), md5(string_agg(one::text, ' ' ORDER BY one::text))"
        f" FROM (SELECT to_jsonb({table}) - 'last_used_at' AS one FROM {table}) AS every"
        for table in tables
    )
    with connection.cursor() as cursor:
        cursor.execute(each)
        rows = {table: (count, digest) for table, count, digest in cursor.fetchall()}
    timed: Any = redis.client().zrange(timer._SET, 0, -1, withscores=True)
    return {**rows, "the timer": timed, "the provider": _newest_intent()}


def _newest_intent() -> Any:
    if settings.STRIPE_API_BASE.endswith(":9"):
        return None  # the test has taken the provider away
    answer = requests.get(
        f"{settings.STRIPE_API_BASE}/v1/payment_intents",
        params={"limit": "1"},
        headers={"Authorization": "Bearer sk_test_sandbox"},
        timeout=10,
    )
    return answer.json()["data"]


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs: names of tables, the timer, the provider."""
    return [name for name in before if before[name] != after[name]]
