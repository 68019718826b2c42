"""How stock stood at a moment, from the log."""

from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

import pytest

from foundation.database import database_now
from foundation.ids import first_id_at, uuid7
from inventory import selectors, services
from inventory.models import StockMovement
from tests.factories import make_merchant, make_product

pytestmark = pytest.mark.django_db

_numbers = count(1)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def merchant():
    return make_merchant()


def moved(merchant, offer, at, on_hand_after, reserved_after=0):
    """A line of the log, written at that time."""
    StockMovement.objects.create(
        id=UUID(int=first_id_at(at).int | 7 << 76 | 2 << 62 | next(_numbers)),
        merchant_id=merchant.id,
        product_id=offer.id,
        key=str(next(_numbers)),
        operation="restock",
        quantity=1,
        on_hand_change=1,
        reserved_change=0,
        on_hand_after=on_hand_after,
        reserved_after=reserved_after,
        by="test",
    )


def hours(*numbers):
    return [NOON + timedelta(hours=number) for number in numbers]


def test_stock_stood_as_its_last_movement_before_the_moment_left_it(merchant):
    offer, other = make_product(merchant), make_product(merchant)
    one, two, _ = hours(1, 2, 3)
    moved(merchant, offer, one, 10)
    moved(merchant, offer, two, 11, 4)
    moved(merchant, other, one, 99)
    history = selectors.stock_history(product_id=offer.id, moments=hours(0, 1, 1.5, 2, 2.5, 9))
    assert [(point.at, point.on_hand, point.reserved, point.available) for point in history] == [
        (NOON + timedelta(hours=1.5), 10, 0, 10),
        (NOON + timedelta(hours=2), 10, 0, 10),  # just before it
        (NOON + timedelta(hours=2.5), 11, 4, 7),
        (NOON + timedelta(hours=9), 11, 4, 7),
    ]


def test_what_never_moved_has_no_history(merchant):
    offer = make_product(merchant)
    assert selectors.stock_history(product_id=offer.id, moments=hours(0)) == []
    assert selectors.first_movement_at(product_id=offer.id) is None


def test_the_present_is_a_moment_like_any_other(merchant):
    offer = make_product(merchant, stock=3)
    soon = database_now() + timedelta(minutes=1)
    assert [point.on_hand for point in selectors.stock_history(product_id=offer.id, moments=[soon])] == [3]
    services.restock(merchant_id=merchant.id, product=offer.product, quantity=2, key="k", by="test")
    assert [point.on_hand for point in selectors.stock_history(product_id=offer.id, moments=[soon])] == [5]


def test_many_moments_are_one_statement(merchant, django_assert_num_queries):
    offer = make_product(merchant, stock=3)
    with django_assert_num_queries(1):
        selectors.stock_history(product_id=offer.id, moments=hours(*range(100)))


def test_ids_are_in_the_order_of_time():
    before, made, after = database_now() - timedelta(minutes=1), uuid7(), database_now() + timedelta(minutes=1)
    assert first_id_at(before) < made < first_id_at(after)
