"""Mirrors messages to a Redis stream for consumers outside: at least once, in batches, under a lease.

After Redis is lost the stream is refilled from the messages that are still kept.
"""

import json

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from durability.models import Message
from foundation.redis import client

_CLAIM = """
WITH due AS (
    SELECT id FROM durability_message
    WHERE state = 'pending' AND available_at <= clock_timestamp()
    ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
)
UPDATE durability_message m SET available_at = clock_timestamp() + make_interval(secs => %s)
FROM due WHERE m.id = due.id
RETURNING m.id, m.name, m.key, m.payload
"""


def mirror_batch() -> int:
    """Write one batch of pending messages to the stream. Returns how many."""
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(_CLAIM, [settings.OUTBOX_STREAM_BATCH, settings.LEASE_S])
        rows = sorted(cursor.fetchall())
    if not rows:
        return 0
    pipeline = client().pipeline(transaction=False)
    for message_id, name, key, payload in rows:
        pipeline.xadd(
            settings.OUTBOX_STREAM,
            {"id": message_id, "type": name, "key": key, "payload": json.dumps(json.loads(payload))},
            maxlen=settings.OUTBOX_STREAM_MAX_LENGTH,
            approximate=True,
        )
    pipeline.execute()
    Message.objects.filter(pk__in=[row[0] for row in rows]).update(state=Message.State.PUBLISHED, published_at=Now())
    return len(rows)
