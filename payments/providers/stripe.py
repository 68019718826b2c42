"""The only file that speaks to Stripe. It translates: our calls into theirs, their objects and errors into our types.

`payments.gateway.Provider` says what each function promises; here stands how Stripe keeps it. The SDK retries nothing,
because only one layer may (ours, with the stored key).
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import local
from typing import Any, NoReturn, cast

import requests
import stripe
from django.conf import settings

from payments import metrics
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnsure, SignatureInvalid
from payments.types import (
    BalanceTransaction,
    Charge,
    Failure,
    Intent,
    ProviderBalance,
    ProviderDispute,
    ProviderEvent,
    ProviderPayout,
    ProviderRefund,
)

NAME = "stripe"

Json = dict[str, Any]

_thread = local()  # the SDK's sessions are not shared between threads, and are made after a fork

_INTENT_EXPANDED = ["latest_charge.balance_transaction"]
# What we read of a booking's source. The rest of it is not kept: it changes while the booking does not, and names who paid.
_SOURCE_READ = ("id", "object", "payment_intent", "charge", "metadata", "status")
_CHARGES = ("ch_", "py_")  # of cards, and of local payment methods
_PAGE = 100  # the most that the provider gives
_PATIENT_TRIES = 4  # a page of a long listing: one bad minute must not throw a thousand good pages away
# Our database's clock and the provider's may differ by so much. A busy shop makes 100 payments a second, which are one page:
# two minutes of them can be read within a call's time limit, ten cannot.
_LOOKUP_MARGIN = timedelta(minutes=1)


def create_intent(
    *,
    number: str,
    amount_minor: int,
    currency: str,
    metadata: dict[str, str],
    payment_method: str,
    confirm: bool,
) -> Intent:
    """Our own number is the idempotency key."""
    params: Json = {
        "amount": amount_minor,
        "currency": currency,
        "metadata": metadata,
        "payment_method_types": ["card"],
        "expand": _INTENT_EXPANDED,
    }
    if payment_method:
        params["payment_method"] = payment_method
    if confirm:
        params["confirm"] = True
    return _intent_call("payment_intents.create", lambda v1: v1.payment_intents.create(params, _key(number)))


def retrieve_intent(reference: str) -> Intent:
    return _intent_call(
        "payment_intents.retrieve",
        lambda v1: v1.payment_intents.retrieve(reference, cast(Any, {"expand": _INTENT_EXPANDED})),
    )


def cancel_intent(reference: str) -> Intent:
    """Without a key: cancelling twice cancels once, so each try has one of its own. Under a kept one a single 500, or a refusal while
    the payment was being processed, would be replayed for a day.
    """
    return _intent_call(
        "payment_intents.cancel",
        lambda v1: v1.payment_intents.cancel(reference, cast(Any, {"expand": _INTENT_EXPANDED})),
    )


def find_intent(number: str, *, since: datetime, until: datetime | None = None) -> Intent | None:
    """By our number in its metadata. Listing, not searching: search lags by a minute or more."""
    created = {"gte": int((since - _LOOKUP_MARGIN).timestamp())}
    if until:
        created["lte"] = int((until + _LOOKUP_MARGIN).timestamp())
    for found in _listing("payment_intents", {"created": created}):
        if (found.get("metadata") or {}).get("payment") == number:
            return retrieve_intent(found["id"])
    return None


def create_refund(*, number: str, payment_intent: str, amount_minor: int, metadata: dict[str, str]) -> ProviderRefund:
    """Our own number is the idempotency key."""
    params: Any = {"payment_intent": payment_intent, "amount": amount_minor, "metadata": metadata}
    return _refund(_call("refunds.create", lambda v1: v1.refunds.create(params, _key(number))))


def retrieve_refund(reference: str) -> ProviderRefund:
    return _refund(_call("refunds.retrieve", lambda v1: v1.refunds.retrieve(reference)))


def find_refund(number: str, *, payment_intent: str) -> ProviderRefund | None:
    """By our number in its metadata."""
    for found in _listing("refunds", {"payment_intent": payment_intent}):
        if (found.get("metadata") or {}).get("refund") == number:
            return _refund(found)
    return None


def retrieve_charge_intent(charge: str) -> str:
    return str(_call("charges.retrieve", lambda v1: v1.charges.retrieve(charge)).get("payment_intent") or "")


def list_balance_transactions(
    *, since: datetime | None = None, until: datetime | None = None, source: str = "", after: str = ""
) -> Iterator[BalanceTransaction]:
    """Pages as it goes. A long read is patient with each page; for a single source somebody is waiting."""
    filters: Json = {"expand": ["data.source"]}
    if source:
        filters["source"] = source
    if since and until:
        filters["created"] = {"gte": int(since.timestamp()), "lt": int(until.timestamp())}
    if after:
        filters["starting_after"] = after
    for row in _listing("balance_transactions", filters, tries=1 if source else _PATIENT_TRIES):
        yield _balance_transaction(row)


def retrieve_balance() -> list[ProviderBalance]:
    """What is pending is ours as well: both together are the sum of the rows."""
    answer = _call("balance.retrieve", lambda v1: v1.balance.retrieve())
    available = {part["currency"]: part["amount"] for part in answer["available"]}
    pending = {part["currency"]: part["amount"] for part in answer["pending"]}
    return [
        ProviderBalance(currency, available.get(currency, 0), pending.get(currency, 0))
        for currency in sorted({*available, *pending})
    ]


def retrieve_dispute(reference: str) -> ProviderDispute:
    return _dispute(_call("disputes.retrieve", lambda v1: v1.disputes.retrieve(reference)))


def retrieve_payout(reference: str) -> ProviderPayout:
    return _payout(_call("payouts.retrieve", lambda v1: v1.payouts.retrieve(reference)))


def list_payout_transactions(payout: str) -> Iterator[BalanceTransaction]:
    filters = {"payout": payout, "expand": ["data.source"]}
    for row in _listing("balance_transactions", filters, tries=_PATIENT_TRIES):
        yield _balance_transaction(row)


def list_events(*, since: datetime, until: datetime | None = None) -> Iterator[ProviderEvent]:
    """Stripe keeps them for 30 days."""
    created = {"gte": int(since.timestamp())} | ({"lt": int(until.timestamp())} if until else {})
    for row in _listing("events", {"created": created}):
        yield _event(row)


def ping(*, timeout_s: float) -> None:
    """Not counted: nobody's payment waits for it."""
    try:
        _new_client(timeout_s, timeout_s).v1.balance.retrieve()
    except stripe.StripeError as error:
        _translate(error)


def parse_webhook(payload: bytes, headers: Mapping[str, str]) -> ProviderEvent:
    """Two secrets may be live."""
    signature = headers.get("Stripe-Signature", "")
    if not any(_is_signed(payload, signature, secret) for secret in settings.STRIPE_WEBHOOK_SECRETS):
        raise SignatureInvalid
    return _event(json.loads(payload))


def livemode() -> bool:
    return "_live_" in settings.STRIPE_API_KEY


# --- Calls ------------------------------------------------------------------------------------------


def _client() -> stripe.StripeClient:
    timeouts = (settings.PROVIDER_CONNECT_TIMEOUT_S, settings.PROVIDER_READ_TIMEOUT_S)
    made_for = (settings.STRIPE_API_KEY, settings.STRIPE_API_BASE, *timeouts)
    if getattr(_thread, "made_for", None) != made_for:
        _thread.client = _new_client(*timeouts)
        _thread.made_for = made_for
    return cast(stripe.StripeClient, _thread.client)


def _new_client(connect_s: float, read_s: float) -> stripe.StripeClient:
    bases: Any = {"api": settings.STRIPE_API_BASE} if settings.STRIPE_API_BASE else {}
    return stripe.StripeClient(
        settings.STRIPE_API_KEY,
        base_addresses=bases,
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=cast(Any, (connect_s, read_s))),
    )


def _key(number: str) -> Any:
    return {"idempotency_key": number}


def _call(name: str, send: Callable[[Any], Any]) -> Json:
    started = time.monotonic()
    outcome = "broken"  # by ourselves
    try:
        answer: Json = send(_client().v1).to_dict()
        outcome = "ok"
    except stripe.CardError as error:
        outcome = "declined"  # an answer like any other: no error of the provider
        _translate(error)
    except stripe.StripeError as error:
        outcome = _type_of(error)
        metrics.STRIPE_ERRORS.labels(outcome).inc()
        _translate(error)
    finally:
        metrics.STRIPE_REQUEST_DURATION.labels(name, outcome).observe(time.monotonic() - started)
    return answer


def _type_of(error: stripe.StripeError) -> str:
    """One of metrics.STRIPE_ERROR_TYPES."""
    status = error.http_status or 0
    if isinstance(error, stripe.APIConnectionError):
        # A body that stops coming is a connection error to requests; its text tells.
        late = isinstance(error.__cause__, requests.Timeout) or "timed out" in str(error.__cause__)
        return "timeout" if late else "connection"
    if isinstance(error, stripe.RateLimitError):
        return "rate_limit"
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return "authentication"
    if isinstance(error, stripe.IdempotencyError):
        return "idempotency"
    if status == 409:
        return "conflict"
    if isinstance(error, stripe.InvalidRequestError):
        return "invalid_request"
    return "server_error" if status >= 500 else "other"


def _translate(error: stripe.StripeError) -> NoReturn:
    status = error.http_status or 0
    message = error.user_message or str(error)
    if isinstance(error, stripe.APIConnectionError):
        raise ProviderUnsure("no answer from the provider") from error
    if error.error is None:
        # A proxy's page, or a body that was cut short, with whatever status: it says nothing of what happened. What stands
        # in it may be a client_secret, so it is neither repeated nor kept.
        raise ProviderUnsure(f"an answer ({status}) that cannot be read") from None
    if isinstance(error, stripe.RateLimitError | stripe.AuthenticationError | stripe.PermissionError) or status == 409:
        raise ProviderBusy(message) from error
    if isinstance(error, stripe.IdempotencyError):
        raise ProviderUnsure(f"the provider knows this key with other parameters: {message}", final=True) from error
    if status >= 500 or not status:
        # Saved under our key and replayed from now on: sending it again would never tell more.
        raise ProviderUnsure(f"the provider answered {status}", final=True) from error
    raise ProviderRefused(error.code or "provider_error", message) from error


def _intent_call(name: str, send: Callable[[Any], Any]) -> Intent:
    try:
        return _intent(_call(name, send))
    except ProviderRefused as refusal:
        cause = refusal.__cause__
        if isinstance(cause, stripe.CardError):
            body: Any = cause.json_body or {}
            declined = body.get("error", {}).get("payment_intent")
            if declined:
                return _intent(declined)
        raise


def _listing(resource: str, filters: Json, *, tries: int = 1) -> Iterator[Json]:
    """All rows of a list, newest first, page after page; each page is one counted call, tried so often."""
    params = {**filters, "limit": _PAGE}
    while True:
        page = _page(resource, params, tries)
        yield from page["data"]
        if not page["has_more"]:
            return
        params = {**params, "starting_after": page["data"][-1]["id"]}


def _page(resource: str, params: Json, tries: int) -> Json:
    for attempt in range(1, tries + 1):
        try:
            return _call(f"{resource}.list", partial(_list, resource, params))
        except (ProviderBusy, ProviderUnsure):
            if attempt == tries:
                raise
            time.sleep(2 ** (attempt - 1))  # a read: safe to repeat; 429 wants a pause
    raise AssertionError("unreachable")


def _list(resource: str, params: Json, v1: Any) -> Any:
    return getattr(v1, resource).list(params)


# --- Translations -----------------------------------------------------------------------------------


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _intent(row: Json) -> Intent:
    charge = row.get("latest_charge")
    return Intent(
        id=row["id"],
        status=row["status"],
        amount_minor=row["amount"],
        amount_received_minor=row.get("amount_received") or 0,
        currency=row["currency"],
        livemode=bool(row["livemode"]),
        metadata=row.get("metadata") or {},
        created_at=_moment(row["created"]),
        failure=_failure(row.get("last_payment_error")),
        charge=_charge(charge) if isinstance(charge, dict) else None,
        client_secret=row.get("client_secret") or "",
    )


def _failure(error: Json | None) -> Failure | None:
    if not error:
        return None
    return Failure(
        code=error.get("code") or "", decline_code=error.get("decline_code") or "", message=error.get("message") or ""
    )


def _charge(row: Json) -> Charge:
    booked = row.get("balance_transaction")
    return Charge(
        id=row["id"],
        status=row["status"],
        amount_minor=row["amount"],
        amount_captured_minor=row["amount_captured"],
        currency=row["currency"],
        created_at=_moment(row["created"]),
        disputed=bool(row.get("disputed")),
        balance_transaction=_balance_transaction(booked) if isinstance(booked, dict) else None,
        refunded_minor=row["amount_refunded"],
    )


def _refund(row: Json) -> ProviderRefund:
    return ProviderRefund(
        id=row["id"],
        status=row["status"],
        amount_minor=row["amount"],
        currency=row["currency"],
        charge=_id_of(row.get("charge")),
        payment_intent=_id_of(row.get("payment_intent")),
        metadata=row.get("metadata") or {},
        created_at=_moment(row["created"]),
        failure_reason=row.get("failure_reason") or "",
    )


def _dispute(row: Json) -> ProviderDispute:
    due_by = (row.get("evidence_details") or {}).get("due_by")
    return ProviderDispute(
        id=row["id"],
        status=row["status"],
        amount_minor=row["amount"],
        currency=row["currency"],
        reason=row.get("reason") or "",
        charge=_id_of(row.get("charge")),
        payment_intent=_id_of(row.get("payment_intent")),
        refundable=bool(row.get("is_charge_refundable")),
        evidence_due_at=_moment(due_by) if due_by else None,
        created_at=_moment(row["created"]),
        bookings=[_balance_transaction(booked) for booked in row.get("balance_transactions") or []],
    )


def _payout(row: Json) -> ProviderPayout:
    return ProviderPayout(
        id=row["id"],
        status=row["status"],
        amount_minor=row["amount"],
        currency=row["currency"],
        automatic=bool(row["automatic"]),
        listable=bool(row["automatic"]) and row.get("reconciliation_status", "completed") == "completed",
        arrives_on=_moment(row["arrival_date"]).date(),
        created_at=_moment(row["created"]),
        failure_code=row.get("failure_code") or "",
        failure_message=row.get("failure_message") or "",
        trace_id=(row.get("trace_id") or {}).get("value") or "",
    )


def _balance_transaction(row: Json) -> BalanceTransaction:
    source = row.get("source")
    details: Json = source if isinstance(source, dict) else {}
    source_id = _id_of(source)
    return BalanceTransaction(
        id=row["id"],
        type=row["type"],
        reporting_category=row["reporting_category"],
        source=source_id,
        amount_minor=row["amount"],
        fee_minor=row["fee"],
        net_minor=row["net"],
        currency=row["currency"],
        status=row["status"],
        created_at=_moment(row["created"]),
        available_at=_moment(row["available_on"]),
        payment_intent=_id_of(details.get("payment_intent")),
        charge=_id_of(details.get("charge")) or (source_id if source_id.startswith(_CHARGES) else ""),
        metadata=details.get("metadata") or {},
        source_status=details.get("status") or "",
        raw=_as_told(row, details),
    )


def _as_told(row: Json, source: Json) -> str:
    """A booking as Stripe told it, the same text while Stripe tells the same."""
    told = {name: source[name] for name in _SOURCE_READ if name in source}
    for name in ("payment_intent", "charge"):
        if told.get(name):
            told[name] = _id_of(told[name])
    return json.dumps({**row, "source": told} if told else row, sort_keys=True)


def _event(row: Json) -> ProviderEvent:
    """Of v1, and the thin ones of v2, which name what changed and hold their moment as a text."""
    changed = (row.get("data") or {}).get("object") or row.get("related_object") or {}
    created = row["created"]
    is_intent = changed.get("object") == "payment_intent"
    return ProviderEvent(
        id=row["id"],
        type=row["type"],
        object_id=changed.get("id") or "",
        intent_id=changed["id"] if is_intent else _id_of(changed.get("payment_intent")),
        livemode=bool(row["livemode"]),
        created_at=_moment(created) if isinstance(created, int) else datetime.fromisoformat(created),
    )


def _id_of(value: Any) -> str:
    return str(value.get("id") or "") if isinstance(value, dict) else str(value or "")


def _is_signed(payload: bytes, signature: str, secret: str) -> bool:
    tolerance_s = settings.STRIPE_WEBHOOK_TOLERANCE_S
    try:
        stripe.WebhookSignature.verify_header(payload, signature, secret, tolerance_s)
    except (stripe.SignatureVerificationError, ValueError):
        return False
    return _signed_at(signature) <= time.time() + tolerance_s  # the SDK accepts stamps from the future


def _signed_at(signature: str) -> int:
    stamps = [part[2:] for part in signature.split(",") if part.startswith("t=")]
    return int(stamps[0]) if stamps and stamps[0].isdigit() else 0
