"""The webhook inbox: a signed event is stored before it is acknowledged; what no webhook brought is listed."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from durability import services as durability
from foundation.database import database_now, delete_in_batches
from payments import gateway
from payments.events import ProviderEventReceived
from payments.models import InboxEvent
from payments.types import ProviderEvent


def receive_webhook(*, payload: bytes, headers: Mapping[str, str]) -> bool:
    """Store a signed event before it is acknowledged. False if it was there already. Raises SignatureInvalid."""
    return _store_event(gateway.parse_webhook(payload, headers))


def replay_events(*, since: datetime) -> tuple[int, int]:
    """List the provider's events since a moment and store those that no webhook brought: (listed, new)."""
    listed = new = 0
    for event in gateway.list_events(since=since):
        listed += 1
        new += _store_event(event)
    return listed, new


@transaction.atomic(durable=True)
def _store_event(event: ProviderEvent) -> bool:
    row = InboxEvent(
        id=event.id,
        type=event.type,
        object_id=event.object_id,
        intent_id=event.intent_id,
        livemode=event.livemode,
        provider_created_at=event.created_at,
    )
    known = InboxEvent.objects.filter(pk=event.id)
    if known.exists():
        return False
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return False
    durability.publish(
        ProviderEventReceived(event=event.id, type=event.type, object_id=event.object_id, intent_id=event.intent_id)
    )
    return True


def catch_up_since() -> datetime:
    """From where the event list has to be read: a little before the newest event that we have."""
    newest = InboxEvent.objects.order_by("-provider_created_at").values_list("provider_created_at", flat=True).first()
    margin = timedelta(seconds=settings.INBOX_CATCH_UP_INTERVAL_S)
    return (newest or database_now() - timedelta(days=1)) - margin


def clean_up_inbox() -> int:
    """Delete events that the provider cannot send again, in bounded batches. Returns how many."""
    old = Now() - timedelta(days=settings.INBOX_KEPT_FOR_DAYS)
    return delete_in_batches(InboxEvent.objects.filter(received_at__lt=old), batch=settings.RETENTION_BATCH)
