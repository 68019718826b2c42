"""Events: what happened, told to the webhook endpoint and kept for the list."""

from payments.sandbox import views
from payments.sandbox.account import API_VERSION, Account, new_id
from payments.sandbox.delivery_modes import schedule
from payments.sandbox.store import Json


def emit(account: Account, name: str, obj: Json, previous: Json | None = None) -> None:
    """Record `name` with a snapshot of the object; `previous` are the attributes that changed, with their old values."""
    if account.silent:
        return
    data: Json = {"object": views.present(account, obj)}
    if previous is not None:
        data["previous_attributes"] = previous
    event: Json = {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": account.now(),
        "data": data,
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": account.cause.request_id, "idempotency_key": account.cause.idempotency_key},
        "type": name,
    }
    account.store.insert(event)
    schedule(account, event["id"])
