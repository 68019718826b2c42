"""What the API reads and writes about orders."""

from typing import Any
from uuid import UUID

from django.conf import settings
from rest_framework import serializers

from foundation import documents
from foundation.api import Email, MinorUnits, Quantity, StrictSerializer, Text, timestamp
from foundation.errors import NotFound
from orders import selectors
from orders.types import OrderView, PaymentWish
from payments.documents import REFUND_EXTENTS, PaymentDocument, payment_json

PAYMENT_METHODS = ["card", "store_credit"]
ORDER_STATUSES = ["pending", "paid", "shipped", "completed", "cancelled"]


class CustomerRequest(StrictSerializer):
    id = Text(max_length=255)
    email = Email(required=False)
    phone = Text(max_length=40, required=False)


class ItemRequest(StrictSerializer):
    product = Text(max_length=255)
    quantity = Quantity()


class PaymentRequest(StrictSerializer):
    method = serializers.ChoiceField(choices=PAYMENT_METHODS)
    payment_method = Text(max_length=255, required=False)
    confirm = serializers.BooleanField(required=False)
    store_credit = MinorUnits(required=False, help_text="this much of the total from the customer's store credit")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["method"] == "store_credit" and "store_credit" not in attrs:
            raise serializers.ValidationError(
                {"store_credit": serializers.ErrorDetail("Say how much store credit: the whole total.", "required")}
            )
        if attrs.get("confirm") and not attrs.get("payment_method"):
            raise serializers.ValidationError(
                {"payment_method": serializers.ErrorDetail("Name the payment_method to confirm with.", "required")}
            )
        return attrs


class CheckoutRequest(StrictSerializer):
    customer = CustomerRequest()
    items = serializers.ListField(child=ItemRequest(), min_length=1, max_length=settings.CHECKOUT_MAX_ITEMS)
    payment = PaymentRequest(required=False)


class ShipRequest(StrictSerializer):
    carrier = Text(max_length=100, required=False)
    tracking = Text(max_length=200, required=False)


class NothingRequest(StrictSerializer):
    """A body without members."""


class ItemDocument(serializers.Serializer[Any]):
    product = serializers.CharField()
    title = serializers.CharField()
    quantity = serializers.IntegerField()
    unit_price = serializers.IntegerField()
    amount = serializers.IntegerField()


class CustomerDocument(serializers.Serializer[Any]):
    id = serializers.CharField()
    email = serializers.CharField(allow_null=True)
    phone = serializers.CharField(allow_null=True)


class OrderDocument(serializers.Serializer[Any]):
    """An order. Amounts are integers in minor units."""

    number = serializers.CharField()
    status = serializers.ChoiceField(choices=ORDER_STATUSES)
    refund_status = serializers.ChoiceField(choices=REFUND_EXTENTS)
    customer = CustomerDocument()
    currency = serializers.CharField()
    total = serializers.IntegerField()
    items = serializers.ListField(child=ItemDocument())
    expires_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField()
    paid_at = serializers.DateTimeField(allow_null=True)
    payments = serializers.ListField(child=PaymentDocument())


class CheckoutDocument(serializers.Serializer[Any]):
    """A placed order and its payment, with the secret to confirm it."""

    order = OrderDocument()
    payment = PaymentDocument()


def wish_of(body: dict[str, Any]) -> PaymentWish:
    """The payment member of a request; without one, a card that the browser confirms."""
    return PaymentWish(
        method=body.get("method", "card"),
        payment_method=body.get("payment_method", ""),
        confirm=body.get("confirm", False),
        store_credit_minor=body.get("store_credit", 0),
    )


def order_document(number: str, *, merchant_id: UUID) -> dict[str, Any]:
    """An order as `order_json` has it, from the cache until it changes. Raises NotFound, also for another merchant's."""
    kept = documents.kept_or_read("ord", number, lambda: _to_keep(selectors.get_order(number)))
    if kept["merchant"] != str(merchant_id):
        raise NotFound
    document: dict[str, Any] = kept["order"]
    return document


def _to_keep(order: OrderView) -> dict[str, Any]:
    return {"merchant": str(order.merchant_id), "order": order_json(order)}


def order_json(order: OrderView) -> dict[str, Any]:
    """An order as the API shows it, with whole payments, without their client_secrets."""
    return {
        "number": order.number,
        "status": order.status,
        "refund_status": order.refund_status,
        "customer": {
            "id": order.customer.id,
            "email": order.customer.email or None,
            "phone": order.customer.phone or None,
        },
        "currency": order.currency,
        "total": order.total_minor,
        "items": [
            {
                "product": item.product,
                "title": item.title,
                "quantity": item.quantity,
                "unit_price": item.unit_price_minor,
                "amount": item.amount_minor,
            }
            for item in order.items
        ],
        "expires_at": timestamp(order.expires_at),
        "created_at": timestamp(order.created_at),
        "paid_at": timestamp(order.paid_at),
        "payments": [payment_json(payment) for payment in order.payments],
    }
