"""Checkout as one would write it first: models, querysets, serializers. `gunicorn benchmarks.plain:application`.

It is the yardstick for what the product's own form is worth, so it does the same: the same key, throttle, validation and
idempotency, the same middleware, and the same rows.
"""

import os
from typing import Any, ClassVar

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from django.conf import settings  # noqa: E402
from django.db import transaction  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import serializers  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

from catalog.models import Merchant, Product  # noqa: E402
from config.health import livez  # noqa: E402
from durability.http import _fingerprint  # noqa: E402
from durability.models import IdempotencyKey, Message, SagaRun, SagaStep  # noqa: E402
from foundation.api import validated  # noqa: E402
from foundation.database import in_seconds  # noqa: E402
from foundation.permissions import caller  # noqa: E402
from inventory.errors import InsufficientStock  # noqa: E402
from inventory.models import Stock, StockHold, StockMovement  # noqa: E402
from orders.errors import ProductNotFound  # noqa: E402
from orders.models import Order, OrderItem  # noqa: E402
from orders.serializers import CheckoutRequest  # noqa: E402
from payments.models import Payment  # noqa: E402


class ItemSerializer(serializers.ModelSerializer):
    unit_price = serializers.IntegerField(source="unit_price_minor")
    amount = serializers.IntegerField(source="amount_minor")

    class Meta:
        model = OrderItem
        fields: ClassVar = ["product", "title", "quantity", "unit_price", "amount"]


class PaymentSerializer(serializers.ModelSerializer):
    order = serializers.CharField(source="reference")
    amount = serializers.IntegerField(source="amount_minor")
    amount_refunded = serializers.IntegerField(source="refunded_minor")

    class Meta:
        model = Payment
        fields: ClassVar = [
            *("number", "order", "status", "amount", "currency", "amount_refunded", "method", "provider_reference"),
            *("created_at", "paid_at"),
        ]


class OrderSerializer(serializers.ModelSerializer):
    total = serializers.IntegerField(source="total_minor")
    items = ItemSerializer(many=True)
    payments = serializers.SerializerMethodField()

    class Meta:
        model = Order
        fields: ClassVar = [
            *("number", "status", "customer", "customer_email", "customer_phone", "currency", "total", "items"),
            *("expires_at", "created_at", "paid_at", "payments"),
        ]

    def get_payments(self, order: Order) -> Any:
        return PaymentSerializer(Payment.objects.filter(reference=order.number), many=True).data


class PlainCheckout(APIView):
    scopes: ClassVar = {"POST": {"storefront"}}

    def post(self, request: Request) -> Response:
        body = validated(CheckoutRequest, request.data)
        wanted = _fingerprint(request)
        with transaction.atomic():
            key, is_new = IdempotencyKey.objects.get_or_create(
                caller=wanted.caller,
                key=wanted.key,
                defaults={"method": wanted.method, "path": wanted.path, "body_hash": wanted.body_hash},
            )
            if not is_new:
                return Response(key.body, status=key.status)
            order = self._place(caller(request).merchant_id, body)
            answer = OrderSerializer(order).data
            key.subject, key.status, key.body = order.number, 201, answer
            key.save()
        return Response(answer, status=201)

    def _place(self, merchant_id: Any, body: dict[str, Any]) -> Order:
        merchant = Merchant.objects.get(pk=merchant_id)
        lines = []
        for index, item in enumerate(body["items"]):
            product = Product.objects.filter(merchant=merchant, product_id=item["product"], published=True).first()
            if product is None:
                raise ProductNotFound(param=f"items[{index}].product")
            lines.append((product, item["quantity"]))
        shelves = {
            stock.pk: stock
            for stock in Stock.objects.select_for_update()
            .filter(pk__in=[product.pk for product, _ in lines])
            .order_by("pk")
        }
        for product, quantity in lines:
            if shelves[product.pk].available < quantity:
                raise InsufficientStock([(product.product_id, quantity, shelves[product.pk].available)])
        order = Order.objects.create(
            merchant_id=merchant_id,
            customer=body["customer"]["id"],
            customer_email=body["customer"].get("email", ""),
            currency=lines[0][0].currency,
            total_minor=sum(product.price_minor * quantity for product, quantity in lines),
            expires_at=in_seconds(merchant.order_expires_after_s),
        )
        payment = Payment.objects.create(
            merchant_id=merchant_id,
            reference=order.number,
            customer=order.customer,
            amount_minor=order.total_minor,
            currency=order.currency,
        )
        run = SagaRun.objects.create(
            recipe="orders.checkout",
            version=1,
            key=order.number,
            subject=order.number,
            payload={"payment": payment.number},
            current_step=1,
            outside=True,
        )
        SagaStep.objects.create(run=run, index=0, name="place the order", state="done")
        Message.objects.create(name="orders.order_placed.v1", key=order.number, payload={"order": order.number})
        for product, quantity in lines:
            OrderItem.objects.create(
                order=order,
                merchant_id=merchant_id,
                product_id=product.pk,
                product=product.product_id,
                title=product.title,
                quantity=quantity,
                unit_price_minor=product.price_minor,
                amount_minor=product.price_minor * quantity,
            )
            shelf = shelves[product.pk]
            shelf.reserved += quantity
            shelf.version += 1
            shelf.save()
            StockHold.objects.create(
                merchant_id=merchant_id, reference=order.number, product=product, reserved=quantity
            )
            StockMovement.objects.create(
                merchant_id=merchant_id,
                product=product,
                key=f"{order.number}:reserve:{product.pk}",
                operation=StockMovement.Operation.RESERVE,
                quantity=quantity,
                on_hand_change=0,
                reserved_change=quantity,
                on_hand_after=shelf.on_hand,
                reserved_after=shelf.reserved,
                reference=order.number,
                by="checkout",
            )
        order.refresh_from_db()
        return order


urlpatterns = [path("api/v1/checkout", PlainCheckout.as_view()), path("livez", livez)]
settings.ROOT_URLCONF = "benchmarks.plain"
