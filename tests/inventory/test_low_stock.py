"""Stock that becomes low is told once, whoever took the last ones, and marked until something comes in."""

from functools import partial
from threading import Barrier
from typing import ClassVar

import pytest
from django.db import IntegrityError, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from durability.models import Message
from foundation.errors import InvalidInput, NotFound
from inventory import selectors, services
from inventory.models import Stock
from inventory.types import Line
from tests.factories import api_client, make_key, make_merchant, make_product
from tests.inventory.test_races import at_once
from tests.races import Race, orders

pytestmark = pytest.mark.django_db


@pytest.fixture
def merchant():
    return make_merchant()


def with_threshold(merchant, threshold: int, stock: int):
    offer = make_product(merchant, stock=stock)
    services.set_low_threshold(merchant_id=merchant.id, product=offer.product, threshold=threshold)
    return offer


@pytest.fixture
def book(merchant):
    """Ten pieces; low from three."""
    return with_threshold(merchant, 3, stock=10)


def take(merchant, offer, quantity, reference="ord_1"):
    lines = [Line(offer.id, offer.product, quantity)]
    services.reserve(merchant_id=merchant.id, reference=reference, lines=lines, by="test")


def expire(merchant, reference="ord_1"):
    services.release_reserved(merchant_id=merchant.id, reference=reference, by="test")


def restock(merchant, offer, quantity, key):
    services.restock(merchant_id=merchant.id, product=offer.product, quantity=quantity, key=key, by="test")


def told():
    return [message.payload for message in Message.objects.filter(name="inventory.stock_low.v1").order_by("pk")]


def test_it_is_told_when_the_threshold_is_reached_and_not_before(merchant, book):
    take(merchant, book, 6)
    assert told() == []
    take(merchant, book, 1, "ord_2")
    assert told() == [
        {
            "stock": str(book.id),
            "product": book.product,
            "merchant_id": str(merchant.id),
            "available": 3,
            "threshold": 3,
        }
    ]
    take(merchant, book, 3, "ord_3")
    assert len(told()) == 1


def test_carts_that_expire_do_not_tell_it_again(merchant, book):
    for number in range(3):
        take(merchant, book, 8, f"ord_{number}")
        expire(merchant, f"ord_{number}")
    assert len(told()) == 1
    assert not Stock.objects.get().is_low
    assert selectors.low_stock_count() == 0  # it has come back by itself


def test_after_a_delivery_it_is_told_again(merchant, book):
    take(merchant, book, 8)
    restock(merchant, book, 1, "too little")
    assert selectors.low_stock_count() == 1
    restock(merchant, book, 5, "enough")
    assert Stock.objects.get().low_noticed_at is None
    take(merchant, book, 5, "ord_2")
    assert [news["available"] for news in told()] == [2, 3]


@pytest.mark.parametrize("how", ["deduct", "adjust"])
def test_it_is_told_whoever_takes_them(merchant, book, how):
    if how == "deduct":
        api_client(make_key(merchant)).post(f"/api/v1/stock/{book.product}/deduct", {"quantity": 7, "reference": "r"})
    else:
        services.adjust(
            merchant_id=merchant.id, product=book.product, change=-7, key="c", by="clerk", reason="water damage"
        )
    assert [news["available"] for news in told()] == [3]


def test_a_sale_that_is_committed_takes_nothing_more(merchant, book):
    take(merchant, book, 6)
    services.commit_reserved(merchant_id=merchant.id, reference="ord_1", by="test")
    assert told() == []


def test_of_a_cart_each_product_that_becomes_low_is_told(merchant, book):
    other, enough = with_threshold(merchant, 0, stock=1), with_threshold(merchant, 5, stock=50)
    lines = [Line(offer.id, offer.product, quantity) for offer, quantity in ((book, 9), (other, 1), (enough, 1))]
    services.reserve(merchant_id=merchant.id, reference="ord_1", lines=lines, by="test")
    assert {(news["product"], news["available"]) for news in told()} == {(book.product, 1), (other.product, 0)}


def test_what_is_rolled_back_was_not_low(merchant, book):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        take(merchant, book, 9)
        raise ZeroDivisionError
    assert (told(), Stock.objects.get().low_noticed_at) == ([], None)


def test_a_threshold_that_is_reached_already_is_told_at_once_and_once(merchant):
    offer = with_threshold(merchant, 5, stock=4)
    assert [news["threshold"] for news in told()] == [5]
    for threshold in (4, 6):
        services.set_low_threshold(merchant_id=merchant.id, product=offer.product, threshold=threshold)
    assert len(told()) == 1
    services.set_low_threshold(merchant_id=merchant.id, product=offer.product, threshold=3)
    assert Stock.objects.get().low_noticed_at is None


def test_without_a_threshold_nothing_is_low(merchant):
    offer = make_product(merchant, stock=1)
    take(merchant, offer, 1)
    services.set_low_threshold(merchant_id=merchant.id, product=offer.product, threshold=None)
    assert (told(), Stock.objects.get().is_low) == ([], False)


def test_a_product_that_never_had_stock_may_have_a_threshold(merchant):
    offer = with_threshold(merchant, 0, stock=0)
    assert [(news["available"], news["product"]) for news in told()] == [(0, offer.product)]


@pytest.mark.parametrize("threshold", [-1, 10_000_001])
def test_a_threshold_is_a_number_of_pieces(merchant, book, threshold):
    with pytest.raises(InvalidInput):
        services.set_low_threshold(merchant_id=merchant.id, product=book.product, threshold=threshold)


def test_another_merchants_product_is_not_found(book):
    with pytest.raises(NotFound):
        services.set_low_threshold(merchant_id=make_merchant().id, product=book.product, threshold=1)


def test_an_ordinary_reservation_costs_no_statement_more(merchant, book, django_assert_num_queries):
    with django_assert_num_queries(3):  # savepoint, reserve, release of the savepoint
        take(merchant, book, 1)


def test_the_database_refuses_stock_that_is_low_unnoticed(book):
    with pytest.raises(IntegrityError, match="stock_that_is_low_is_noticed"), transaction.atomic():
        Stock.objects.filter(pk=book.id).update(on_hand=3)


# --- Random histories ---


class Watched(RuleBasedStateMachine):
    """One product beside a plain model: it is noticed where it falls to its threshold, until something lifts it above."""

    merchant: ClassVar

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.book = make_product(self.merchant)
        self.threshold: int | None = None
        self.available = self.moves = self.told = 0
        self.noticed = False
        self.open: dict[str, int] = {}

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    def moved(self, change: int, *, came_in: bool = False) -> None:
        self.available += change
        if self.threshold is not None and self.available <= self.threshold:
            self.told += not self.noticed
            self.noticed = True
        elif came_in:
            self.noticed = False

    def name(self) -> str:
        self.moves += 1
        return f"ord_{self.moves}"

    @initialize(threshold=st.integers(0, 3))
    def open_shop(self, threshold):
        self.restock(quantity=6)
        self.watch(threshold=threshold)

    @rule(quantity=st.integers(1, 6))
    def restock(self, quantity):
        restock(self.merchant, self.book, quantity, self.name())
        self.moved(quantity, came_in=True)

    @rule(threshold=st.none() | st.integers(0, 4))
    def watch(self, threshold):
        services.set_low_threshold(merchant_id=self.merchant.id, product=self.book.product, threshold=threshold)
        self.threshold = threshold
        self.moved(0, came_in=True)

    @precondition(lambda self: self.available)
    @rule(share=st.sampled_from([1, 2, 3]))
    def reserve(self, share):
        """All of it, half of it, or a third: or hardly any history would come down to its threshold."""
        name, quantity = self.name(), max(1, self.available // share)
        take(self.merchant, self.book, quantity, name)
        self.open[name] = quantity
        self.moved(-quantity)

    @precondition(lambda self: self.open)
    @rule()
    def nobody_pays(self):
        name, quantity = self.open.popitem()
        expire(self.merchant, name)
        self.moved(quantity)

    @precondition(lambda self: self.open)
    @rule()
    def pay(self):
        name, _ = self.open.popitem()
        services.commit_reserved(merchant_id=self.merchant.id, reference=name, by="test")

    @rule(change=st.integers(-2, 2).filter(bool))
    def count(self, change):
        if self.available + change >= 0:
            services.adjust(
                merchant_id=self.merchant.id,
                product=self.book.product,
                change=change,
                key=self.name(),
                by="test",
                reason="counted",
            )
            self.moved(change, came_in=change > 0)

    @invariant()
    def it_is_noticed_and_told_as_the_model_says(self):
        stock = Stock.objects.filter(pk=self.book.id).first() or Stock()
        assert (stock.available, stock.low_noticed_at is not None) == (self.available, self.noticed)
        assert Message.objects.filter(name="inventory.stock_low.v1", key=str(self.book.id)).count() == self.told


def test_random_histories_tell_of_low_stock_as_often_as_it_becomes_low():
    Watched.merchant = make_merchant()
    run_state_machine_as_test(
        Watched,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


# --- At the same moment ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("turns", orders("a", "a", "b", alike=True))
def test_two_who_reach_it_together_tell_it_once(race: Race, merchant, book, turns):
    race.stop_before_commit()
    for name in ("a", "b"):
        race.actor(name, partial(take, merchant, book, 4, f"ord_{name}"))
    assert race.play(turns) == {"a": None, "b": None}
    assert [news["available"] for news in told()] == [2]


@pytest.mark.django_db(transaction=True)
def test_control_who_looks_first_and_tells_then_tells_it_twice(merchant, book):
    everyone_has_looked = Barrier(2)

    def naive(number: int) -> None:
        noticed = Stock.objects.get(pk=book.id).low_noticed_at
        everyone_has_looked.wait(timeout=30)
        with transaction.atomic():
            Stock.objects.filter(pk=book.id).update(reserved=8, low_noticed_at="2026-01-01T00:00Z")
            if noticed is None:
                services._tell_of_low([book.id])

    assert at_once(naive, times=2) == [None, None]
    assert len(told()) == 2
