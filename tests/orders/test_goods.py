"""What changes in the catalogue after an order was placed, and what cannot be bought."""

import pytest

from catalog import services as catalog
from durability.models import Message
from inventory import services as inventory
from orders.models import Order
from payments.models import Payment
from tests.shop import open_shop, settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def change(shop, product="book", **fields):
    answer = shop.operations.patch(f"/api/v1/products/{product}", fields, format="json")
    assert answer.status_code == 200, answer.json()


def test_a_price_that_changes_touches_no_placed_order(shop):
    placed = shop.checkout(quantity=2).json()["order"]
    paid = shop.bought()
    change(shop, price=9_900, title="A dearer edition", currency="eur", published=False)

    for before in (placed, paid):
        now = shop.order(before["number"])
        assert (now["total"], now["currency"], now["items"]) == (before["total"], "usd", before["items"])
    # What is still to be paid is what was asked for: another attempt, its payment, its books.
    answer = shop.storefront.post(
        f"/api/v1/orders/{placed['number']}/cancel", {}, format="json", headers={"Idempotency-Key": "c"}
    )
    assert answer.json()["total"] == 3000
    assert shop.level() == (9, 0)


def test_a_payment_after_the_change_asks_for_the_old_price(shop):
    placed = shop.checkout(payment={"method": "card", "payment_method": "pm_card_visa_chargeDeclined", "confirm": True})
    assert placed.status_code == 402
    number = placed.json()["order"]["number"]
    change(shop, price=9_900)
    answer = shop.storefront.post(
        f"/api/v1/orders/{number}/payments", CONFIRMED, format="json", headers={"Idempotency-Key": "again"}
    )
    assert (answer.status_code, answer.json()["amount"]) == (201, 1500)
    settle()
    assert shop.order(number)["status"] == "paid"
    assert shop.checkout().json()["order"]["total"] == 9_900  # and a new order costs what it costs now


def test_a_repeated_checkout_answers_with_the_old_price(shop):
    first = shop.checkout(key="one").json()["order"]
    change(shop, price=9_900, published=False)
    again = shop.checkout(key="one")
    assert (again.status_code, again.json()["order"]["total"]) == (201, first["total"])


@pytest.mark.parametrize("which", ["unpublished", "unknown", "another merchant's"])
def test_what_is_not_for_sale_cannot_be_bought_and_nothing_happens(shop, which):
    shop.stock("other", 5)
    if which == "unpublished":
        change(shop, "other", published=False)
    open_shop().stock("theirs", 5)
    wanted = {"unpublished": "other", "unknown": "nothing", "another merchant's": "theirs"}[which]
    items = [{"product": "book", "quantity": 1}, {"product": wanted, "quantity": 1}]
    refused = shop.checkout(key="mine", items=items)
    assert (refused.status_code, refused.json()["code"]) == (400, "product_not_found")
    assert refused.json()["param"] == "items[1].product"
    assert (shop.level(), shop.level("other")) == ((10, 0), (5, 0))
    assert not Order.objects.exists()
    assert not Payment.objects.exists()
    assert shop.checkout(key="mine").status_code == 201  # no key was consumed


def test_what_is_unpublished_after_the_order_is_sold_all_the_same(shop):
    number = shop.checkout(payment=CONFIRMED).json()["order"]["number"]
    catalog.update_product(merchant_id=shop.merchant_id, product="book", published=False)
    settle()
    assert shop.order(number)["status"] == "paid"
    assert shop.level() == (9, 0)


def test_a_checkout_that_makes_stock_low_tells_of_it_and_a_refused_one_does_not(shop):
    inventory.set_low_threshold(merchant_id=shop.merchant_id, product="book", threshold=8)
    assert shop.checkout(quantity=11).status_code == 409
    assert not Message.objects.filter(name="inventory.stock_low.v1").exists()
    shop.checkout(quantity=2)
    news = Message.objects.get(name="inventory.stock_low.v1").payload
    assert (news["product"], news["available"], news["threshold"]) == ("book", 8, 8)
