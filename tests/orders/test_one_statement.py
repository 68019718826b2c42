"""How many statements the hot paths send, and that the one which places an order writes all of it or nothing."""

from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection
from django.test.utils import CaptureQueriesContext

from durability.models import IdempotencyKey, Message, SagaRun, SagaStep
from inventory.models import StockHold, StockMovement
from orders.models import Order, OrderItem
from payments.models import Payment
from tests.credit import grant, with_credit
from tests.shop import Shop

LATER = {"Prefer": "respond-async"}
WRITTEN: list[Any] = [IdempotencyKey, Order, OrderItem, Payment, SagaRun, SagaStep, Message, StockHold]


@pytest.fixture(autouse=True)
def key_is_known(shop) -> None:
    """That a key was used is written down once a minute: not by the requests that are counted."""
    shop.storefront.get("/api/v1/orders")


def statements(work: Any) -> tuple[Any, list[str]]:
    with CaptureQueriesContext(connection) as queries:
        answer = work()
    return answer, [query["sql"] for query in queries]


def cart(shop: Shop, products: int) -> list[dict[str, Any]]:
    return [{"product": shop.stock(f"book {number}".replace(" ", "-"), 5), "quantity": 2} for number in range(products)]


# --- How many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("products", [1, 2, 100])
def test_a_checkout_is_three_statements_whatever_is_in_the_cart(shop, products):
    items = cart(shop, products)
    answer, sent = statements(lambda: shop.checkout(items=items, headers=LATER))
    assert answer.status_code == 201
    assert len(sent) == 3, sent  # who calls, what is offered at which price, everything that is written
    assert "orders_place_order" in sent[-1]


def test_who_comes_too_late_costs_the_same_three(shop):
    answer, sent = statements(lambda: shop.checkout(quantity=11, headers=LATER))
    assert answer.json()["code"] == "insufficient_stock"
    assert len(sent) == 3, sent


def test_a_replay_looks_its_answer_up(shop):
    shop.checkout(key="one", headers=LATER)
    answer, sent = statements(lambda: shop.checkout(key="one", headers=LATER))
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert len(sent) == 5, sent  # besides those: the key, and whether its payment has a secret by now


def test_a_checkout_that_opens_its_payment_itself(shop):
    answer, sent = statements(shop.checkout)
    assert answer.json()["payment"]["client_secret"]
    assert len(sent) <= 22, sent  # the saga's two commits around the call, and the answer's


def test_reads_of_what_has_not_changed_ask_who_calls_and_nothing_else(shop):
    body = shop.checkout(headers=LATER).json()
    for path, first in ((f"/orders/{body['order']['number']}", 4), (f"/payments/{body['payment']['number']}", 2)):
        read = lambda path=path: shop.storefront.get(f"/api/v1{path}")  # noqa: E731
        fresh, sent = statements(read)
        assert len(sent) == first, sent
        kept, sent = statements(read)
        assert len(sent) == 1, sent
        assert kept.json() == fresh.json()


# --- What is written --------------------------------------------------------------------------------


def test_the_answer_is_what_a_reader_finds(shop):
    """It is made from the plan, before anything is written: nothing in it may differ from the rows."""
    items = cart(shop, 3)
    customer = {"id": "cust-ö", "email": "reader@example.com", "phone": "+49 30 1"}
    body = shop.checkout(items=items, customer=customer, headers=LATER).json()
    assert body["order"] == shop.order(body["order"]["number"])
    assert body["payment"] == shop.storefront.get(f"/api/v1/payments/{body['payment']['number']}").json()
    assert IdempotencyKey.objects.get().body == body


def test_titles_of_every_script_come_back_as_they_are(shop):
    from catalog.models import Product

    title = "Go微服务实战 \\ 'quoted' \"twice\" 👩‍🚀 \u200f %s %(x)s {} $$ \u2028"
    Product.objects.update(title=title)
    body = shop.checkout(headers=LATER).json()
    assert body["order"]["items"][0]["title"] == shop.order(body["order"]["number"])["items"][0]["title"] == title


@pytest.mark.parametrize("late", [True, False])
def test_where_the_last_part_fails_nothing_is_left(shop, unguarded, late):
    before = StockMovement.objects.count()
    unguarded.function("inventory_reserve", "RETURN nullif(short, '[]');", "RAISE 'the disk is full';")
    with pytest.raises(Exception, match="the disk is full"):
        shop.checkout(headers=LATER if late else {})
    assert [model.objects.count() for model in WRITTEN] == [0] * len(WRITTEN)
    assert (StockMovement.objects.count(), shop.level()) == (before, (10, 0))


def test_who_is_short_at_the_last_moment_leaves_nothing(shop, unguarded):
    """Another buyer was faster between the look and the lock."""
    shop.stock("other", 5)
    items = [{"product": "other", "quantity": 5}, {"product": "book", "quantity": 11}]
    unguarded.function("inventory_short", "< line.quantity", "< 0")
    answer = shop.checkout(items=items, key="one", headers=LATER)
    assert (answer.status_code, answer.json()["errors"]) == (
        409,
        [{"product": "book", "requested": 11, "available": 10}],
    )
    assert [model.objects.count() for model in WRITTEN] == [0] * len(WRITTEN)
    assert (shop.level("other"), shop.level()) == ((5, 0), (10, 0))
    assert shop.checkout(key="one", headers=LATER).status_code == 201


def test_a_shortage_names_the_lines_in_the_order_of_the_cart(shop):
    shop.stock("few", 1)
    items = [{"product": "few", "quantity": 2}, {"product": "book", "quantity": 11}, {"product": "few", "quantity": 1}]
    assert shop.checkout(items=items).json()["errors"] == [
        {"product": "few", "requested": 3, "available": 1},
        {"product": "book", "requested": 11, "available": 10},
    ]


def test_store_credit_that_does_not_suffice_takes_the_whole_order_back(shop):
    grant(shop, 1000)
    answer = shop.checkout(payment=with_credit(1200), key="one", headers=LATER)
    assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_store_credit")
    assert not Order.objects.exists()
    assert shop.level() == (10, 0)
    assert shop.checkout(payment=with_credit(1000), key="one", headers=LATER).status_code == 201


# --- A retry ----------------------------------------------------------------------------------------


def test_a_retry_is_answered_as_the_first_was_although_the_book_is_not_for_sale_any_more(shop):
    first = shop.checkout(key="one", headers=LATER)
    shop.operations.patch("/api/v1/products/book", {"published": False}, format="json")
    again = shop.checkout(key="one", headers=LATER)
    assert (again.status_code, again.json()) == (201, first.json())
    other = shop.checkout(quantity=2, key="one", headers=LATER)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    fresh = shop.checkout(key=str(uuid4()), headers=LATER)
    assert (fresh.status_code, fresh.json()["code"]) == (400, "product_not_found")
    assert IdempotencyKey.objects.count() == 1


def test_a_key_is_taken_once_even_where_the_first_answer_was_lost(shop):
    shop.checkout(key="one", headers=LATER)
    with pytest.raises(IntegrityError):
        IdempotencyKey.objects.get().__class__.objects.create(
            caller=shop.merchant_id, key="one", method="POST", path="/", body_hash=b""
        )
