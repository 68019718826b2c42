"""What payments do about news: a signed event is read again at the provider and applied."""

from durability.registry import handles
from durability.types import Since
from payments.events import ProviderEventReceived
from payments.services import rereads


@handles(ProviderEventReceived, name="payments.apply_provider_event", since=Since.OLDEST_KEPT, outside=True)
def apply_provider_event(event: ProviderEventReceived) -> None:
    rereads.sync_provider_object(event_type=event.type, object_id=event.object_id, intent_id=event.intent_id)
