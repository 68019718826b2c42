"""How payments and refunds look in the API: one shape, also where an order nests them. Never with a client_secret."""

from typing import Any
from uuid import UUID

from rest_framework import serializers

from foundation import documents
from foundation.api import timestamp
from foundation.errors import NotFound
from payments import selectors
from payments.states import PaymentStatus, RefundStatus
from payments.types import PaymentView, RefundView

PAYMENT_STATUSES = ["pending", "processing", "requires_action", "succeeded", "failed", "cancelled"]
REFUND_STATUSES = [
    "requested",
    "awaiting_approval",
    "processing",
    "pending",
    "requires_action",
    "succeeded",
    "failed",
    "cancelled",
]
REFUND_EXTENTS = ["none", "partial", "refunding", "refunded"]  # of an order, of a payment


class FailureDocument(serializers.Serializer[Any]):
    code = serializers.CharField()
    decline_code = serializers.CharField(allow_null=True)
    message = serializers.CharField()


class PaymentDocument(serializers.Serializer[Any]):
    """A payment. Amounts are integers in minor units."""

    number = serializers.CharField()
    order = serializers.CharField()
    status = serializers.ChoiceField(choices=PAYMENT_STATUSES)
    amount = serializers.IntegerField()
    currency = serializers.CharField()
    amount_refunded = serializers.IntegerField()
    refund_status = serializers.ChoiceField(choices=REFUND_EXTENTS)
    method = serializers.CharField()
    store_credit = serializers.IntegerField(required=False, help_text="the part of the amount that store credit pays")
    provider_reference = serializers.CharField(allow_null=True)
    client_secret = serializers.CharField(required=False, help_text="while the buyer can still confirm")
    failure = FailureDocument(required=False)
    created_at = serializers.DateTimeField()
    paid_at = serializers.DateTimeField(allow_null=True)


class RefundDocument(serializers.Serializer[Any]):
    """A refund. Amounts are integers in minor units."""

    number = serializers.CharField()
    payment = serializers.CharField()
    status = serializers.ChoiceField(choices=REFUND_STATUSES)
    amount = serializers.IntegerField()
    store_credit = serializers.IntegerField(required=False, help_text="the part that goes back as store credit")
    currency = serializers.CharField()
    reason = serializers.CharField()
    requested_by = serializers.CharField()
    provider_reference = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    completed_at = serializers.DateTimeField(allow_null=True)


def payment_document(number: str, *, merchant_id: UUID) -> dict[str, Any]:
    """A payment as `payment_json` has it, from the cache until it changes. Raises NotFound, also for another merchant's."""
    kept = documents.kept_or_read("pay", number, lambda: _to_keep(selectors.get_payment(number)))
    if kept["merchant"] != str(merchant_id):
        raise NotFound
    document: dict[str, Any] = kept["payment"]
    return document


def is_confirmable(payment: dict[str, Any]) -> bool:
    """Whether this document's payment has a client_secret, which is read from the provider each time."""
    return payment["status"] in (PaymentStatus.PENDING, PaymentStatus.REQUIRES_ACTION) and bool(
        payment["provider_reference"]
    )


def _to_keep(payment: PaymentView) -> dict[str, Any]:
    return {"merchant": str(payment.merchant_id), "payment": payment_json(payment)}


def payment_json(payment: PaymentView) -> dict[str, Any]:
    """A payment as the API shows it; never with its client_secret."""
    document: dict[str, Any] = {
        "number": payment.number,
        "order": payment.reference,
        "status": "processing" if payment.status == "unknown" else payment.status,
        "amount": payment.amount_minor,
        "currency": payment.currency,
        "amount_refunded": payment.refunded_minor,
        "refund_status": payment.refund_status,
        "method": payment.method,
        "provider_reference": payment.provider_reference or None,
        "created_at": timestamp(payment.created_at),
        "paid_at": timestamp(payment.paid_at),
    }
    if payment.credit_minor:
        document["store_credit"] = payment.credit_minor
    if payment.failure:
        document["failure"] = {
            "code": payment.failure.code,
            "decline_code": payment.failure.decline_code or None,
            "message": payment.failure.message,
        }
    return document


def refund_json(refund: RefundView) -> dict[str, Any]:
    """A refund as the API shows it."""
    document = {
        "number": refund.number,
        "payment": refund.payment,
        "status": refund.status,
        "amount": refund.amount_minor,
        "currency": refund.currency,
        "reason": refund.reason,
        "requested_by": refund.requested_by,
        "provider_reference": refund.provider_reference or None,
        "created_at": timestamp(refund.created_at),
        "completed_at": timestamp(refund.completed_at),
    }
    return document | ({"store_credit": refund.credit_minor} if refund.credit_minor else {})


def refund_told(refund: RefundView) -> str:
    """What becomes of a refund that was asked for, in a sentence for whoever asked."""
    if refund.status == RefundStatus.AWAITING_APPROVAL:
        return f"Refund {refund.number} is above the merchant's limit: it waits for a second person's approval."
    if refund.credit_minor == refund.amount_minor:
        return f"Refund {refund.number} becomes store credit, which the customer can spend in a moment."
    return f"Refund {refund.number} is on its way to the provider."
