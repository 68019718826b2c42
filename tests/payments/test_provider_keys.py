"""What is sent again is sent under the same key, so that the provider does it once, whoever sends it."""

import pytest

from payments import gateway
from payments.models import Payment

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


@pytest.mark.guard(2)
def test_two_who_open_one_attempt_at_once_open_one_intent(shop, sandbox):
    """Neither knows of the other: the first one's answer is not written down when the second one sends."""
    number = shop.checkout(payment=CONFIRMED, headers={"Prefer": "respond-async"}).json()["payment"]["number"]
    payment = Payment.objects.get()
    before = sandbox.control("GET", "books")["charges"]
    for _ in range(2):
        gateway.create_intent(
            number=number,
            amount_minor=payment.amount_minor,
            currency=payment.currency,
            metadata={"payment": number},
            payment_method="pm_card_visa",
            confirm=True,
        )
    assert sandbox.control("GET", "books")["charges"] == before + 1
