"""What the API's documentation shows of orders."""

from typing import Any

from payments import examples as payments

Json = dict[str, Any]

ORDER_NUMBER = "ord_01kah5v0qtfq8rsx3m4n2e0f7b"

PENDING: Json = {
    "number": ORDER_NUMBER,
    "status": "pending",
    "refund_status": "none",
    "customer": {"id": "c1", "email": "k@example.org", "phone": None},
    "currency": "usd",
    "total": 2500,
    "items": [{"product": "the-trial", "title": "The Trial", "quantity": 2, "unit_price": 1250, "amount": 2500}],
    "expires_at": "2026-11-19T09:45:00.118Z",
    "created_at": "2026-11-19T09:30:00.118Z",
    "paid_at": None,
    "payments": [payments.OPEN],
}
PAID: Json = PENDING | {"status": "paid", "paid_at": "2026-11-19T09:31:12.700Z", "payments": [payments.PAID]}
SHIPPED: Json = PAID | {"status": "shipped"}
COMPLETED: Json = PAID | {"status": "completed"}
CANCELLED: Json = PENDING | {"status": "cancelled", "payments": [payments.OPEN | {"status": "cancelled"}]}

CART: Json = {
    "customer": {"id": "c1", "email": "k@example.org"},
    "items": [{"product": "the-trial", "quantity": 2}],
}
CART_AT_ONCE: Json = CART | {"payment": payments.AT_ONCE}
CART_WITH_STORE_CREDIT: Json = CART | {"payment": payments.WITH_STORE_CREDIT}
CHECKED_OUT: Json = {"order": PENDING, "payment": payments.CONFIRMABLE}
CHECKED_OUT_ASYNC: Json = {"order": PENDING | {"payments": [payments.WAITING]}, "payment": payments.WAITING}
SHIP: Json = {"carrier": "DHL", "tracking": "JD014600006281230704"}

# Refusals that left an order behind.
DECLINED: Json = {
    "order": PENDING | {"payments": [payments.DECLINED]},
    "payment": payments.DECLINED,
    "decline_code": "insufficient_funds",
}
NOT_OPENED: Json = {"order": PENDING | {"payments": [payments.NOT_OPENED]}, "payment": payments.NOT_OPENED}
