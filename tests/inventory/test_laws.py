"""Random histories: the log, the stock and the holds always tell the same story."""

from typing import ClassVar

import pytest
from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from inventory import books, services
from inventory.errors import HoldExceeded, InsufficientStock, NothingReserved
from inventory.models import Stock, StockHold, StockMovement
from inventory.types import Line
from tests.factories import make_merchant, make_product

PRODUCTS = st.integers(0, 2)
QUANTITIES = st.integers(1, 6)
ORDERS = st.sampled_from(["ord_a", "ord_b", "ord_c"])
REFERENCES = st.sampled_from(["counter", "event"])


class Shelf(RuleBasedStateMachine):
    """Runs the services beside a plain model of what they promise."""

    merchant: ClassVar
    books: ClassVar

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.on_hand = [0, 0, 0]
        self.reserved: dict[tuple[str, int], int] = {}
        self.sold: dict[tuple[str, int], int] = {}
        self.reserved_once: set[tuple[str, int]] = set()
        self.committed: set[str] = set()
        self.keys = 0

    def teardown(self) -> None:
        try:
            assert [difference for batch in books.proof() for difference in batch.differences] == []
        finally:
            transaction.set_rollback(True)
            self.transaction.__exit__(None, None, None)

    def available(self, book: int) -> int:
        return self.on_hand[book] - sum(held for (_, of), held in self.reserved.items() if of == book)

    def call(self, move, refusal, **values):
        """The service refuses exactly when the model does, and then changes nothing."""
        if refusal:
            with pytest.raises(refusal), transaction.atomic():
                move(merchant_id=self.merchant.id, by="test", **values)
        else:
            move(merchant_id=self.merchant.id, by="test", **values)
        return not refusal

    def new_key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    @rule(book=PRODUCTS, quantity=QUANTITIES)
    def restock(self, book, quantity):
        values = {"product": self.books[book].product, "quantity": quantity, "key": self.new_key()}
        self.call(services.restock, None, **values)
        self.call(services.restock, None, **values)  # the same key again
        self.on_hand[book] += quantity

    @rule(order=ORDERS, cart=st.lists(st.tuples(PRODUCTS, QUANTITIES), min_size=1, max_size=4))
    def reserve(self, order, cart):
        wanted: dict[int, int] = {}
        for book, quantity in cart:
            wanted[book] = wanted.get(book, 0) + quantity
        if any((order, book) in self.reserved_once for book in wanted):
            return  # an order's lines never change
        short = any(self.available(book) < quantity for book, quantity in wanted.items())
        lines = [Line(self.books[book].id, self.books[book].product, quantity) for book, quantity in cart]
        if self.call(services.reserve, InsufficientStock if short else None, reference=order, lines=lines):
            self.call(services.reserve, None, reference=order, lines=lines)
            for book, quantity in wanted.items():
                self.reserved[order, book] = quantity
                self.reserved_once.add((order, book))

    @rule(order=ORDERS)
    def commit(self, order):
        held = {key: quantity for key, quantity in self.reserved.items() if key[0] == order}
        refusal = None if held or order in self.committed else NothingReserved
        if any((order, book) in self.sold for _, book in held):
            return
        if self.call(services.commit_reserved, refusal, reference=order):
            self.committed.add(order)
        for (_, book), quantity in held.items():
            del self.reserved[order, book]
            self.sold[order, book] = quantity
            self.on_hand[book] -= quantity

    @rule(orders=st.lists(ORDERS, min_size=1, max_size=3))
    def expire(self, orders):
        services.release_reserved_many(references=[(self.merchant.id, order) for order in orders], by="test")
        for key in [key for key in self.reserved if key[0] in orders]:
            del self.reserved[key]

    @rule(order=ORDERS)
    def return_sold(self, order):
        self.call(services.return_sold, None, reference=order)
        for key in [key for key in self.sold if key[0] == order]:
            self.on_hand[key[1]] += self.sold.pop(key)

    @rule(book=PRODUCTS, quantity=QUANTITIES, reference=REFERENCES)
    def deduct(self, book, quantity, reference):
        refusal = InsufficientStock if self.available(book) < quantity else None
        values = {"product": self.books[book].product, "quantity": quantity, "reference": reference}
        values["key"] = self.new_key()
        if self.call(services.deduct, refusal, **values):
            self.call(services.deduct, None, **values)
            self.on_hand[book] -= quantity
            self.sold[reference, book] = self.sold.get((reference, book), 0) + quantity

    @rule(book=PRODUCTS, quantity=QUANTITIES, reference=REFERENCES)
    def release(self, book, quantity, reference):
        refusal = HoldExceeded if self.sold.get((reference, book), 0) < quantity else None
        values = {"product": self.books[book].product, "quantity": quantity, "reference": reference}
        values["key"] = self.new_key()
        if self.call(services.release, refusal, **values):
            self.call(services.release, None, **values)
            self.on_hand[book] += quantity
            self.sold[reference, book] -= quantity

    @rule(book=PRODUCTS, change=st.integers(-3, 3).filter(bool))
    def count(self, book, change):
        refusal = InsufficientStock if self.available(book) + change < 0 and change < 0 else None
        if self.call(
            services.adjust,
            refusal,
            product=self.books[book].product,
            change=change,
            key=self.new_key(),
            reason="counted",
        ):
            self.on_hand[book] += change

    @invariant()
    def all_tell_the_same_story(self):
        stock = {row.pk: (row.on_hand, row.reserved) for row in Stock.objects.all()}
        log = {
            book: (on_hand, reserved)
            for book, on_hand, reserved in StockMovement.objects.values_list("product_id").annotate(
                Sum("on_hand_change"), Sum("reserved_change")
            )
        }
        last = StockMovement.objects.order_by("product_id", "-pk").distinct("product_id")
        held = {
            book: (reserved, sold)
            for book, reserved, sold in StockHold.objects.values_list("product_id").annotate(
                Sum("reserved"), Sum("sold")
            )
        }
        assert stock == log == {row.product_id: (row.on_hand_after, row.reserved_after) for row in last}
        for number, book in enumerate(self.books):
            on_hand, reserved = stock.get(book.id, (0, 0))
            sold = sum(sold for (_, of), sold in self.sold.items() if of == number)
            assert (on_hand, on_hand - reserved) == (self.on_hand[number], self.available(number))
            assert held.get(book.id, (0, 0)) == (reserved, sold)


@pytest.mark.django_db
def test_random_histories_keep_the_laws():
    Shelf.merchant = make_merchant()
    Shelf.books = [make_product(Shelf.merchant) for _ in range(3)]
    run_state_machine_as_test(
        Shelf,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
