"""`GET /orders/{n}` and `/payments/{n}` from the cache: always as the rows stand, of nobody else, without a secret."""

from typing import Any

import pytest
from django.db.models.functions import Now

from foundation import documents
from orders import selectors, services
from orders.models import Order
from orders.serializers import order_json
from payments import selectors as payment_reads
from payments.documents import payment_json
from tests.shop import Shop, open_shop, settle

VISA = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
DECLINED = {**VISA, "payment_method": "pm_card_chargeDeclined"}


def keep(shop: Shop, number: str) -> dict[str, Any]:
    """Read an order and its payments, so that they are kept; they must be as the rows stand."""
    fresh = selectors.get_order(number)
    shown = shop.order(number)
    assert shown == order_json(fresh)
    for payment in fresh.payments:
        document = shop.storefront.get(f"/api/v1/payments/{payment.number}").json()
        document.pop("client_secret", None)
        assert document == payment_json(payment_reads.get_payment(payment.number))
    return shown


def paid(shop: Shop) -> str:
    return str(shop.bought()["number"])


def by_a_webhook(shop: Shop, number: str) -> None:
    settle()


def by_shipping(shop: Shop, number: str) -> None:
    assert shop.post(f"/orders/{number}/ship", {"carrier": "DHL"}).status_code == 200


def by_cancelling(shop: Shop, number: str) -> None:
    assert shop.post(f"/orders/{number}/cancel").status_code == 200


def by_a_refund(shop: Shop, number: str) -> None:
    payment = shop.order(number)["payments"][0]["number"]
    assert shop.post(f"/payments/{payment}/refunds", {"amount": 500, "reason": "torn"}).status_code == 201


def by_another_attempt(shop: Shop, number: str) -> None:
    answer = shop.storefront.post(
        f"/api/v1/orders/{number}/payments", VISA, format="json", headers={"Idempotency-Key": "again"}
    )
    assert answer.status_code == 201


def by_expiry(shop: Shop, number: str) -> None:
    Order.objects.update(expires_at=Now())
    services.rearm()
    assert services.expire_due()


def unopened(shop: Shop) -> str:
    return str(shop.checkout(headers={"Prefer": "respond-async"}).json()["order"]["number"])


def declined(shop: Shop) -> str:
    return str(shop.checkout(payment=DECLINED).json()["order"]["number"])


@pytest.mark.parametrize(
    ("order", "change"),
    [
        (paid, by_shipping),
        (paid, by_cancelling),
        (paid, by_a_refund),
        (declined, by_another_attempt),
        (unopened, by_expiry),
        (unopened, by_cancelling),
        (unopened, by_a_webhook),  # and by the worker that opens it
    ],
)
def test_after_each_change_a_reader_sees_it(shop, order, change):
    number = order(shop)
    before = keep(shop, number)
    change(shop, number)
    after = keep(shop, number)
    assert after != before
    settle()
    keep(shop, number)


def test_control_where_nobody_forgets_a_reader_sees_what_was(shop, monkeypatch):
    number = paid(shop)
    before = keep(shop, number)
    monkeypatch.setattr(documents, "forget_after_commit", lambda *numbers: None)
    by_shipping(shop, number)
    assert shop.order(number) == before


def test_who_polls_for_the_secret_finds_it_as_soon_as_the_payment_is_open(shop):
    payment = shop.checkout(headers={"Prefer": "respond-async"}).json()["payment"]["number"]
    poll = lambda: shop.storefront.get(f"/api/v1/payments/{payment}").json()  # noqa: E731
    assert "client_secret" not in poll()
    assert "client_secret" not in poll()  # from the cache
    settle()
    assert poll()["client_secret"].startswith(poll()["provider_reference"])


def test_another_merchant_finds_nothing_in_the_cache(shop):
    number = paid(shop)
    payment = keep(shop, number)["payments"][0]["number"]
    stranger = open_shop().storefront
    for path in (f"/orders/{number}", f"/payments/{payment}"):
        assert stranger.get(f"/api/v1{path}").status_code == 404
        assert shop.storefront.get(f"/api/v1{path}").status_code == 200


def test_no_secret_is_kept(shop, valkey):
    body = shop.checkout().json()
    keep(shop, body["order"]["number"])
    kept = [valkey.get(key) for key in valkey.keys("everycent:document:*")]
    assert any(body["payment"]["number"] in str(one) for one in kept)
    assert not any("secret" in str(one) for one in kept)


def test_what_is_not_there_is_not_kept(shop, valkey):
    from foundation.ids import public_id, uuid7

    number = public_id("ord", uuid7())
    assert shop.storefront.get(f"/api/v1/orders/{number}").status_code == 404
    assert not valkey.keys("everycent:document:*")


def test_a_payments_number_is_no_order_and_an_orders_number_no_payment(shop):
    """Whatever is kept under it."""
    order = shop.bought()
    keep(shop, order["number"])
    assert shop.storefront.get(f"/api/v1/orders/{order['payments'][0]['number']}").status_code == 404
    assert shop.storefront.get(f"/api/v1/payments/{order['number']}").status_code == 404
