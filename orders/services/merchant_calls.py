"""What merchants' own systems are told: a signed call to the merchant's endpoint, one for each event."""

import hashlib
import json
from uuid import UUID

from catalog import selectors as catalog
from durability.types import Event
from foundation import webhooks


def call_merchant(*, merchant_id: str, event: Event, subject: str) -> None:
    """Tell the merchant of an event about `subject` (a number); does nothing for one who named no endpoint.

    Belongs outside of transactions. Raises WebhookFailed: it is to be sent again, and carries the same id each time.
    """
    endpoint = catalog.webhook_endpoint(UUID(merchant_id))
    if endpoint is None:
        return
    document = {"type": event.name, "data": event.payload()}
    webhooks.post(
        url=endpoint.url,
        secret=endpoint.secret,
        message_id=message_id(event.name, subject),
        body=json.dumps(document, separators=(",", ":")).encode(),
    )


def message_id(event: str, subject: str) -> str:
    """The same for each try of one event about one subject, and for nothing else; without a full stop."""
    return f"msg_{hashlib.sha256(f'{event} {subject}'.encode()).hexdigest()[:32]}"
