"""Movements by key, counts, and what the database refuses by itself."""

import pytest
from django.db import DatabaseError, IntegrityError, transaction

from foundation.errors import InvalidInput, NotFound
from inventory import services
from inventory.errors import InsufficientStock, MovementKeyReused
from inventory.models import Stock, StockMovement
from inventory.types import Line
from tests.factories import make_merchant, make_product

pytestmark = pytest.mark.django_db


@pytest.fixture
def merchant():
    return make_merchant()


@pytest.fixture
def book(merchant):
    return make_product(merchant, stock=10)


def test_a_key_in_the_log_moves_nothing_again_even_when_its_answer_is_forgotten(merchant, book):
    for _ in range(2):
        level = services.deduct(
            merchant_id=merchant.id, product=book.product, quantity=4, reference="r", key="k", by="test"
        )
        assert level.on_hand == 6


def test_a_key_in_the_log_is_no_other_movements_key(merchant, book):
    services.restock(merchant_id=merchant.id, product=book.product, quantity=4, key="k", by="test")
    with pytest.raises(MovementKeyReused):
        services.restock(merchant_id=merchant.id, product=book.product, quantity=5, key="k", by="test")


def test_two_merchants_may_use_the_same_key(merchant, book):
    other = make_merchant()
    theirs = make_product(other)
    for shop, product in ((merchant, book), (other, theirs)):
        services.restock(merchant_id=shop.id, product=product.product, quantity=1, key="k", by="test")
    assert Stock.objects.get(pk=theirs.id).on_hand == 1


def test_a_count_corrects_the_shelf_and_keeps_the_reason(merchant, book):
    adjust = {"merchant_id": merchant.id, "product": book.product, "by": "clerk"}
    assert services.adjust(**adjust, change=-3, key="count-1", reason="water damage").on_hand == 7
    assert services.adjust(**adjust, change=+1, key="count-2", reason="found behind the shelf").on_hand == 8
    log = StockMovement.objects.filter(operation="adjust").order_by("pk")
    assert [(row.on_hand_change, row.reason) for row in log] == [(-3, "water damage"), (1, "found behind the shelf")]


def test_a_count_cannot_take_what_is_promised(merchant, book):
    services.reserve(merchant_id=merchant.id, reference="ord_1", lines=[Line(book.id, book.product, 8)], by="test")
    with pytest.raises(InsufficientStock):
        services.adjust(merchant_id=merchant.id, product=book.product, change=-3, key="c", by="clerk", reason="lost")


@pytest.mark.parametrize(("change", "reason"), [(0, "nothing"), (1, "  ")])
def test_a_count_needs_a_difference_and_a_reason(merchant, book, change, reason):
    with pytest.raises(InvalidInput):
        services.adjust(merchant_id=merchant.id, product=book.product, change=change, key="c", by="x", reason=reason)


def test_an_unknown_product_is_not_found(merchant):
    with pytest.raises(NotFound):
        services.restock(merchant_id=merchant.id, product="nothing", quantity=1, key="k", by="test")


def test_the_database_never_oversells(book):
    with pytest.raises(IntegrityError, match="stock_reserved_within_on_hand"), transaction.atomic():
        Stock.objects.filter(pk=book.id).update(reserved=11)


def test_the_log_is_written_once(book):
    for change in (lambda log: log.update(quantity=1), lambda log: log.delete()):
        with pytest.raises(DatabaseError, match="append_only"), transaction.atomic():
            change(StockMovement.objects.filter(product_id=book.id))
