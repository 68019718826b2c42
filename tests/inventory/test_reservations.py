"""Reserving, committing and giving back."""

import pytest

from inventory import selectors, services
from inventory.errors import InsufficientStock, NothingReserved
from inventory.models import Stock, StockHold, StockMovement
from inventory.types import Line
from tests.factories import make_merchant, make_product

pytestmark = pytest.mark.django_db


@pytest.fixture
def merchant():
    return make_merchant()


def line(offer, quantity):
    return Line(offer.id, offer.product, quantity)


def counts(offer):
    stock = Stock.objects.get(pk=offer.id)
    return stock.on_hand, stock.reserved


def reserve(merchant, reference, *lines):
    services.reserve(merchant_id=merchant.id, reference=reference, lines=list(lines), by="test")


def test_reserved_stock_is_not_available(merchant):
    book = make_product(merchant, stock=5)
    reserve(merchant, "ord_1", line(book, 3))
    level = selectors.stock_levels(merchant_id=merchant.id, product_ids=[book.id])[book.id]
    assert (level.on_hand, level.reserved, level.available) == (5, 3, 2)


def test_lines_of_one_product_are_merged(merchant):
    book = make_product(merchant, stock=5)
    reserve(merchant, "ord_1", line(book, 2), line(book, 3))
    assert counts(book) == (5, 5)
    assert StockMovement.objects.filter(reference="ord_1").count() == 1


def test_a_shortage_names_every_short_line_and_changes_nothing(merchant):
    enough, few, none = make_product(merchant, stock=9), make_product(merchant, stock=1), make_product(merchant)
    with pytest.raises(InsufficientStock) as refusal:
        reserve(merchant, "ord_1", line(enough, 9), line(few, 1), line(few, 1), line(none, 1))
    assert refusal.value.members["errors"] == [
        {"product": few.product, "requested": 2, "available": 1},
        {"product": none.product, "requested": 1, "available": 0},
    ]
    assert counts(enough) == (9, 0)
    assert not StockHold.objects.exists()


def test_another_merchants_stock_is_none(merchant):
    book = make_product(make_merchant(), stock=9)
    with pytest.raises(InsufficientStock):
        reserve(merchant, "ord_1", line(book, 1))


def test_reserving_twice_under_one_reference_reserves_once(merchant):
    book = make_product(merchant, stock=5)
    for _ in range(2):
        reserve(merchant, "ord_1", line(book, 2))
    assert counts(book) == (5, 2)


def test_the_last_copy_reserved_again_by_its_owner_is_no_shortage(merchant):
    book = make_product(merchant, stock=1)
    for _ in range(2):
        reserve(merchant, "ord_1", line(book, 1))
    assert counts(book) == (1, 1)


def test_committing_sells_what_was_reserved_once(merchant):
    book, other = make_product(merchant, stock=5), make_product(merchant, stock=5)
    reserve(merchant, "ord_1", line(book, 2), line(other, 1))
    for _ in range(2):
        services.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="test")
    assert (counts(book), counts(other)) == ((3, 0), (4, 0))


def test_releasing_gives_back_once_and_leaves_other_references_alone(merchant):
    book = make_product(merchant, stock=5)
    reserve(merchant, "ord_1", line(book, 2))
    reserve(merchant, "ord_2", line(book, 1))
    for _ in range(2):
        services.release_reserved(merchant_id=merchant.id, reference="ord_1", by="test")
    assert counts(book) == (5, 1)


def test_what_was_released_cannot_be_committed(merchant):
    book = make_product(merchant, stock=5)
    reserve(merchant, "ord_1", line(book, 2))
    services.release_reserved(merchant_id=merchant.id, reference="ord_1", by="test")
    with pytest.raises(NothingReserved):
        services.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="test")
    assert counts(book) == (5, 0)


def test_what_was_never_reserved_cannot_be_committed(merchant):
    with pytest.raises(NothingReserved):
        services.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="test")


def test_what_was_committed_is_not_released(merchant):
    book = make_product(merchant, stock=5)
    reserve(merchant, "ord_1", line(book, 2))
    services.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="test")
    services.release_reserved(merchant_id=merchant.id, reference="ord_1", by="test")
    assert counts(book) == (3, 0)


def test_what_was_sold_goes_back_on_the_shelf_once(merchant):
    book = make_product(merchant, stock=5)
    reserve(merchant, "ord_1", line(book, 2))
    services.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="test")
    for _ in range(2):
        services.return_sold(merchant_id=merchant.id, reference="ord_1", by="test")
    assert counts(book) == (5, 0)
    services.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="test")  # still only a repeat
    assert counts(book) == (5, 0)


def test_many_references_are_released_in_as_many_statements_as_one(merchant, django_assert_num_queries):
    other_merchant = make_merchant()
    book, theirs = make_product(merchant, stock=50), make_product(other_merchant, stock=50)
    for number in range(10):
        reserve(merchant, f"ord_{number}", line(book, 2))
        reserve(other_merchant, f"ord_{number}", line(theirs, 1))
    references = [(shop.id, f"ord_{number}") for shop in (merchant, other_merchant) for number in range(10)]
    with django_assert_num_queries(4):  # savepoint, lock, move, release of the savepoint
        services.release_reserved_many(references=references[:15], by="expiry")
    assert (counts(book), counts(theirs)) == ((50, 0), (50, 5))


def test_each_line_of_the_log_says_how_the_stock_stood_after_it(merchant):
    book = make_product(merchant, stock=10)
    reserve(merchant, "ord_1", line(book, 2))
    reserve(merchant, "ord_2", line(book, 3))
    services.release_reserved_many(references=[(merchant.id, "ord_1"), (merchant.id, "ord_2")], by="expiry")
    log = StockMovement.objects.filter(product_id=book.id).order_by("pk")
    assert [(row.operation, row.quantity, row.on_hand_after, row.reserved_after) for row in log] == [
        ("restock", 10, 10, 0),
        ("reserve", 2, 10, 2),
        ("reserve", 3, 10, 5),
        ("release_reserved", 2, 10, 3),
        ("release_reserved", 3, 10, 0),
    ]


def test_an_orders_movements_tell_its_story(merchant):
    book = make_product(merchant, stock=5)
    reserve(merchant, "ord_1", line(book, 2))
    services.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="orders.payment_success")
    story = selectors.movements_of(merchant_id=merchant.id, reference="ord_1")
    assert [(view.product, view.operation, view.on_hand_change, view.reserved_change, view.by) for view in story] == [
        (book.product, "reserve", 0, 2, "test"),
        (book.product, "commit", -2, -2, "orders.payment_success"),
    ]
