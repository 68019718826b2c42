"""More buyers than copies, all at once. `make flash-sale` does the same with 500 buyers on the whole stack."""

from collections import Counter

from payments.models import Payment
from tests.orders.test_checkout import at_once
from tests.shop import settle

LATER = {"Prefer": "respond-async"}
BUYERS, COPIES = 24, 5


def test_as_many_orders_as_copies_and_everybody_else_is_told_so(shop):
    shop.stock("hit", COPIES)
    answers = at_once([lambda: shop.checkout("hit", headers=LATER)] * BUYERS)
    told = Counter((answer.status_code, answer.json().get("code")) for answer in answers)
    assert told == {(201, None): COPIES, (409, "insufficient_stock"): BUYERS - COPIES}
    assert shop.level("hit") == (COPIES, COPIES)
    assert Payment.objects.count() == COPIES


def test_carts_of_the_same_books_in_opposite_order_do_not_block_each_other(shop):
    for book in ("left", "right"):
        shop.stock(book, BUYERS)
    carts = [[{"product": book, "quantity": 1} for book in order] for order in (("left", "right"), ("right", "left"))]
    answers = at_once([lambda cart=carts[n % 2]: shop.checkout(items=cart, headers=LATER) for n in range(BUYERS)])
    assert {answer.status_code for answer in answers} == {201}
    assert shop.level("left") == shop.level("right") == (BUYERS, BUYERS)


def test_a_provider_that_has_enough_delays_the_opening_and_not_the_checkout(shop, sandbox):
    sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": "rate_limit", "times": 3})
    numbers = [shop.checkout(headers=LATER).json()["payment"]["number"] for _ in range(2)]
    assert {payment.status for payment in Payment.objects.all()} == {"pending"}
    settle()
    for number in numbers:
        opened = shop.storefront.get(f"/api/v1/payments/{number}").json()
        assert opened["status"] == "pending"
        assert opened["client_secret"]
