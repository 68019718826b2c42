"""Orders and their items. An order holds a snapshot of its customer and of each product's title and price."""

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from foundation.ids import Numbered, uuid7
from foundation.transition import TransitionRecord, protect_append_only, transition_guard
from orders.states import ORDER_EDGES, OrderStatus


class Order(Numbered, models.Model):
    """A sale from checkout to completion."""

    PREFIX = "ord"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant_id = models.UUIDField()
    status = models.CharField(max_length=16, default=OrderStatus.PENDING)
    customer = models.CharField(max_length=255)
    customer_email = models.EmailField(blank=True)
    customer_phone = models.CharField(max_length=40, blank=True)
    currency = models.CharField(max_length=3)
    total_minor = models.BigIntegerField()
    carrier = models.CharField(max_length=100, blank=True)
    tracking = models.CharField(max_length=200, blank=True)
    expires_at = models.DateTimeField()
    # Set while its cancellation is under way: no new attempt and no shipping from here on.
    cancel_requested_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    paid_at = models.DateTimeField(null=True)

    class Meta:
        permissions = [("cancel_order", "Can cancel orders"), ("ship_order", "Can ship and complete orders")]
        constraints = [
            models.CheckConstraint(condition=Q(total_minor__gt=0), name="order_total_positive"),
            models.CheckConstraint(
                condition=~Q(status__in=["paid", "shipped", "completed"]) | Q(paid_at__isnull=False),
                name="order_paid_has_a_date",
            ),
        ]
        indexes = [
            # The truth behind the expiry timer: what is being cancelled already is not in it.
            models.Index(
                fields=["expires_at", "id"],
                name="order_to_expire",
                condition=Q(status="pending", cancel_requested_at__isnull=True),
            ),
            models.Index(fields=["merchant_id", "customer", "id"], name="order_by_customer"),
            models.Index(fields=["merchant_id", "status", "id"], name="order_by_status"),
        ]
        triggers = [transition_guard(field="status", edges=ORDER_EDGES)]


class OrderItem(models.Model):
    """One product of an order, as it was offered when the order was placed."""

    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="items")
    merchant_id = models.UUIDField()
    product_id = models.UUIDField()
    product = models.CharField(max_length=255)
    title = models.CharField(max_length=500)
    quantity = models.PositiveIntegerField()
    unit_price_minor = models.BigIntegerField()
    amount_minor = models.BigIntegerField()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(quantity__gt=0, unit_price_minor__gte=0), name="order_item_quantity_positive"
            ),
            models.CheckConstraint(
                condition=Q(amount_minor=F("quantity") * F("unit_price_minor")), name="order_item_amount_is_the_product"
            ),
            models.UniqueConstraint(fields=["order", "product_id"], name="order_item_lines_are_merged"),
        ]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return f"{self.quantity} × {self.title}"


class OrderHistory(TransitionRecord):
    subject = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="history")

    class Meta:
        verbose_name_plural = "order history"
        triggers = [protect_append_only()]


class DailySales(models.Model):
    """What one merchant sold in one currency on one day (UTC). Counted by handlers, once an event."""

    id = models.BigAutoField(primary_key=True)
    merchant_id = models.UUIDField()
    date = models.DateField()
    currency = models.CharField(max_length=3)
    orders_paid = models.PositiveIntegerField(default=0)
    revenue_minor = models.BigIntegerField(default=0)
    # Less those that came back: on a day on which more came back than went out these are negative.
    refunds = models.IntegerField(default=0)
    refunded_minor = models.BigIntegerField(default=0)
    points = models.BigIntegerField(default=0)  # loyalty points earned, less those that refunds took back

    class Meta:
        verbose_name_plural = "daily sales"
        constraints = [
            models.UniqueConstraint(
                fields=["merchant_id", "date", "currency"], name="daily_sales_once_per_merchant_day_and_currency"
            ),
            models.CheckConstraint(condition=Q(revenue_minor__gte=0), name="daily_sales_revenue_not_negative"),
        ]
        indexes = [models.Index(fields=["date"], name="daily_sales_by_date")]

    def __str__(self) -> str:
        return f"{self.date} {self.currency}"


class MerchantCall(Numbered, models.Model):
    """A piece of news for a merchant's own system, and what became of it: a call that is made until it is answered."""

    PREFIX = "msg"  # its number is its `webhook-id`, the same for each try

    class State(models.TextChoices):
        PENDING = "pending"  # to be made, at once or when its pause is over
        DELIVERED = "delivered"  # answered with 2xx
        GIVEN_UP = "given_up"  # not once in a day: waits for an operator
        DROPPED = "dropped"  # never to be made: an operator said so, or the merchant has no address any more

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant_id = models.UUIDField()
    event = models.CharField(max_length=100)
    subject = models.CharField(max_length=64)  # the number of what it is about
    payload = models.JSONField()
    request_id = models.CharField(max_length=128, blank=True)
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)  # since it was written, or sent again by a person
    # Not before this moment. While a call is under way, the next try: a process that dies of it needs no other lease.
    available_at = models.DateTimeField(db_default=Now())
    last_answer = models.TextField(blank=True)
    last_tried_at = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)
    decided_by = models.CharField(max_length=150, blank=True)
    decided_reason = models.TextField(blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        permissions = [("decide_merchantcall", "Can send calls to merchants again, and drop them")]
        constraints = [
            models.CheckConstraint(
                condition=~Q(state="delivered") | Q(delivered_at__isnull=False),
                name="merchant_call_delivered_at_a_moment",
            ),
            models.CheckConstraint(
                condition=~Q(state="dropped") | ~Q(decided_reason=""), name="merchant_call_dropped_with_a_reason"
            ),
        ]
        indexes = [
            # The queue of each merchant: claiming looks at the head of each.
            models.Index(
                fields=["merchant_id", "available_at", "id"], name="merchant_call_due", condition=Q(state="pending")
            ),
            models.Index(fields=["merchant_id", "id"], name="merchant_call_by_merchant"),
            models.Index(fields=["subject", "id"], name="merchant_call_by_subject"),
            models.Index(fields=["id"], name="merchant_call_pending", condition=Q(state="pending")),
            # Few, and counted by every look at /metrics.
            models.Index(fields=["id"], name="merchant_call_given_up", condition=Q(state="given_up")),
            models.Index(fields=["id"], name="merchant_call_dropped", condition=Q(state="dropped")),
            BrinIndex(fields=["created_at"], name="merchant_call_age", autosummarize=True),
        ]
