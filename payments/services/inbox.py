"""The webhook inbox: a signed event is stored before it is acknowledged; what no webhook brought is listed.

An event is a hint, stored once by its id, and worked on by re-reading the object that it names. So neither a repeat nor a
second Event object about the same change has a second effect.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Greatest, Now

from durability import services as durability
from foundation.database import database_now, delete_in_batches
from foundation.errors import NotFound
from payments import gateway, metrics
from payments.errors import ContradictsProvider, ProviderBusy, ProviderRefused, ProviderUnsure
from payments.events import ProviderEventReceived
from payments.metrics import count_after_commit
from payments.models import InboxEvent, InboxMark
from payments.services.rereads import is_handled, sync_provider_object, unavailable
from payments.types import ProviderEvent

_PAGE = 100  # as the provider lists them
# A change is told within seconds; a dispute's or payout's row may be booked a little before or after it.
_TOLD_BEFORE, _TOLD_AFTER = timedelta(minutes=1), timedelta(minutes=5)


def receive_webhook(*, payload: bytes, headers: Mapping[str, str]) -> bool:
    """Store a signed event before it is acknowledged. False if it was there already. Raises SignatureInvalid."""
    return _store_event(gateway.parse_webhook(payload, headers))


def _silent(listed: int) -> None:
    """Nobody watches."""


def replay_events(*, since: datetime, again: bool = False, tell: Callable[[int], None] = _silent) -> tuple[int, int]:
    """List the provider's events since a moment and store those that no webhook brought: (listed, new).

    `again` has those that are stored already worked on once more. `tell` hears how many were listed. Belongs outside of
    transactions. Raises ProviderUnsure, ProviderBusy, ProviderRefused; what was stored until then stays.
    """
    listed = new = 0
    newest: datetime | None = None
    for page in _pages(gateway.list_events(since=since)):
        known = set(InboxEvent.objects.filter(pk__in=[event.id for event in page]).values_list("pk", flat=True))
        for event in page:
            is_new = event.id not in known and _store_event(event)
            new += is_new
            if again and not is_new:
                replay_event(event.id)
        newest = max(newest or page[0].created_at, *(event.created_at for event in page))
        listed += len(page)
        tell(listed)
    mark = InboxMark.objects.first()
    if newest and (mark is None or since <= mark.listed_until):  # without a gap: the list was read to its end
        InboxMark.objects.bulk_create([InboxMark(listed_until=newest)], ignore_conflicts=True)
        InboxMark.objects.update(listed_until=Greatest("listed_until", newest))
    return listed, new


def _pages(events: Iterator[ProviderEvent]) -> Iterator[list[ProviderEvent]]:
    """Almost all that is listed is known: to ask for each event by itself would cost more than to list it."""
    while page := list(islice(events, _PAGE)):
        yield page


def replay_event(event_id: str) -> None:
    """Have a stored event worked on again: its object is read at the provider and applied. Raises NotFound."""
    with transaction.atomic():
        event = InboxEvent.objects.filter(pk=event_id).first()
        if event is None:
            raise NotFound
        _publish(event)


def replay_events_about(references: Sequence[str], *, around: datetime | None) -> tuple[int, int]:
    """Work on every event about some of the provider's objects here and now, as if it had just arrived; those that no
    webhook brought are listed first, `around` the moment at which they changed: (worked on, new to us).

    An event is a hint: each object that is named is read at the provider and applied, so a repeat changes nothing.
    Belongs outside of transactions. Raises ProviderUnavailable, ContradictsProvider.
    """
    names = [reference for reference in references if reference]
    about = Q(object_id__in=names) | Q(intent_id__in=names)
    new = 0
    try:
        if around:
            since, until = around - _TOLD_BEFORE, around + _TOLD_AFTER
            for event in islice(gateway.list_events(since=since, until=until), settings.INBOX_REPLAY_LISTED):
                if event.object_id in names or event.intent_id in names:
                    new += _store_event(event)
        told = InboxEvent.objects.filter(about).order_by("provider_created_at", "id")
        events = list(told.values_list("type", "object_id", "intent_id"))
        for event_type, object_id, intent_id in dict.fromkeys(events):
            sync_provider_object(event_type=event_type, object_id=object_id, intent_id=intent_id)
    except (ProviderUnsure, ProviderBusy) as error:
        raise unavailable(error) from error
    except ProviderRefused as refusal:
        raise ContradictsProvider(
            f"The provider does not know what its own event names: {refusal.message}"
        ) from refusal
    return len(events), new


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
    if not is_handled(event.type):
        count_after_commit(metrics.UNKNOWN_EVENTS, event.type)
    _publish(row)
    return True


def _publish(event: InboxEvent) -> None:
    durability.publish(
        ProviderEventReceived(event=event.pk, type=event.type, object_id=event.object_id, intent_id=event.intent_id)
    )


def catch_up_since() -> datetime:
    """From where the event list has to be read: a little before what was last listed without a gap.

    Not before the newest webhook: one that arrived after others were lost would hide those.
    """
    listed = InboxMark.objects.values_list("listed_until", flat=True).first()
    if listed is None:  # never listed yet
        listed = InboxEvent.objects.order_by("-received_at").values_list("provider_created_at", flat=True).first()
    return (listed or database_now() - timedelta(days=1)) - timedelta(seconds=settings.INBOX_CATCH_UP_MARGIN_S)


def clean_up_inbox() -> int:
    """Delete events that the provider cannot send again, in bounded batches. Returns how many."""
    old = Now() - timedelta(days=settings.INBOX_KEPT_FOR_DAYS)
    return delete_in_batches(InboxEvent.objects.filter(received_at__lt=old), batch=settings.RETENTION_BATCH)
