"""Which messages each handler is to see, whoever published them.

`publish` writes a delivery per handler that its process knows. A handler that is deployed later, and one that a process
of the release before does not know yet, gets its deliveries here: no message is lost between two releases.
"""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max, Min
from django.db.models.functions import Now

from durability import doorbell, registry
from durability.models import Message, Subscription
from durability.types import Handler, Lane, Since

# Nobody's transaction is older: what was published before this moment can be seen.
_SETTLED_AFTER = timedelta(minutes=10)

_DELIVER = """
INSERT INTO durability_delivery (message_id, handler, key, outside, state, attempts, lease_version, last_error,
                                 resolved_by, resolved_reason)
SELECT id, %(handler)s, key, %(outside)s, 'pending', 0, 0, '', '', ''
FROM durability_message
WHERE name = %(event)s AND id > %(after)s AND id <= %(to)s
ON CONFLICT (message_id, handler) DO NOTHING
"""


def catch_up() -> int:
    """Make what deliveries are missing, handler by handler in bounded batches. Returns how many were made."""
    _subscribe()
    kept = Message.objects.aggregate(oldest=Min("pk"), newest=Max("pk"))
    oldest, newest = kept["oldest"] or 0, kept["newest"] or 0
    unsettled = Message.objects.filter(created_at__gt=Now() - _SETTLED_AFTER).aggregate(id=Min("pk"))["id"]
    settled = newest if unsettled is None else unsettled - 1
    known = {handler.name: handler for handler in registry.handlers()}
    made = 0
    for subscription in Subscription.objects.filter(handler__in=known, checked_to__lt=newest):
        # Ids below the oldest kept are gone: a walk from zero would be long where millions were cleaned away.
        after = max(subscription.checked_to, oldest - 1)
        made += _catch_up(subscription, known[subscription.handler], after, newest, settled)
    return made


def _subscribe() -> None:
    """Write down from where each handler listens that nobody has heard of before."""
    heard_of = set(Subscription.objects.values_list("handler", flat=True))
    new = [handler for handler in registry.handlers() if handler.name not in heard_of]
    if not new:
        return
    newest = Message.objects.aggregate(id=Max("pk"))["id"] or 0
    starts = {handler.name: 0 if handler.since is Since.OLDEST_KEPT else newest for handler in new}
    Subscription.objects.bulk_create(
        [Subscription(handler=name, since_message=start, checked_to=start) for name, start in starts.items()],
        ignore_conflicts=True,
    )


def _catch_up(subscription: Subscription, handler: Handler, after: int, newest: int, settled: int) -> int:
    made = 0
    while after < newest:
        to = min(after + settings.SUBSCRIPTION_BATCH, newest)
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            values: dict[str, Any] = {"handler": handler.name, "outside": handler.lane is Lane.OUTSIDE}
            cursor.execute(_DELIVER, values | {"event": handler.event.name, "after": after, "to": to})
            if cursor.rowcount:
                made += cursor.rowcount
                doorbell.ring_after_commit(handler.lane)
            # What is not settled yet is looked at again.
            Subscription.objects.filter(pk=subscription.pk).update(checked_to=max(after, min(to, settled)))
        after = to
    return made
