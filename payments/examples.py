"""What the API's documentation shows of payments and refunds."""

from typing import Any

Json = dict[str, Any]

PAYMENT_NUMBER = "pay_01kah5v0qwe1r9tq6m8x2c4v7n"
REFUND_NUMBER = "ref_01kah6b3yd5f8s2k0m7p9q1r4t"

# Not open at the provider yet, as `Prefer: respond-async` answers it.
WAITING: Json = {
    "number": PAYMENT_NUMBER,
    "order": "ord_01kah5v0qtfq8rsx3m4n2e0f7b",
    "status": "pending",
    "amount": 2500,
    "currency": "usd",
    "amount_refunded": 0,
    "refund_status": "none",
    "method": "card",
    "provider_reference": None,
    "created_at": "2026-11-19T09:30:00.120Z",
    "paid_at": None,
}
OPEN: Json = WAITING | {"provider_reference": "pi_3SVb2wLkdIwHu7ix1mY4tKq8"}
# What the buyer's browser needs to confirm it.
CONFIRMABLE: Json = OPEN | {"client_secret": "pi_3SVb2wLkdIwHu7ix1mY4tKq8_secret_x9Fq2"}
PAID: Json = OPEN | {"status": "succeeded", "paid_at": "2026-11-19T09:31:12.502Z"}
DECLINED: Json = OPEN | {
    "status": "failed",
    "failure": {
        "code": "card_declined",
        "decline_code": "insufficient_funds",
        "message": "Your card has insufficient funds.",
    },
}
NOT_OPENED: Json = WAITING | {
    "status": "failed",
    "failure": {
        "code": "resource_missing",
        "decline_code": None,
        "message": "No such PaymentMethod: 'pm_card_vista'",
    },
}

IN_THE_BROWSER: Json = {"method": "card"}
AT_ONCE: Json = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
WITH_STORE_CREDIT: Json = {"method": "card", "store_credit": 500}

REFUND_A_PART: Json = {"amount": 500, "reason": "a page is missing"}
REFUND_ALL: Json = {"reason": "the customer sent it back"}
REFUND: Json = {
    "number": REFUND_NUMBER,
    "payment": PAYMENT_NUMBER,
    "status": "requested",
    "amount": 500,
    "currency": "usd",
    "reason": "a page is missing",
    "requested_by": "api",
    "provider_reference": None,
    "created_at": "2026-11-19T10:02:31.900Z",
    "completed_at": None,
}
REFUNDED: Json = REFUND | {
    "status": "succeeded",
    "provider_reference": "re_3SVb2wLkdIwHu7ix1B7cPd2e",
    "completed_at": "2026-11-19T10:02:35.114Z",
}
