"""Ten buyers, one copy. Threads with connections of their own, on the real database."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from inventory import services
from inventory.errors import InsufficientStock, NothingReserved
from inventory.locks import Counts
from inventory.models import Stock, StockHold, StockMovement
from inventory.types import Line
from tests.factories import api_client, make_key, make_merchant, make_product
from tests.races import Race, orders

pytestmark = pytest.mark.django_db(transaction=True)

BUYERS = 10


@pytest.fixture
def merchant():
    return make_merchant()


@pytest.fixture
def last_copy(merchant):
    return make_product(merchant, stock=1)


def at_once(work: Callable[[int], Any], times: int = BUYERS) -> list[Any]:
    """What each thread returned, or the error that it raised."""
    start = Barrier(times)

    def run(number: int) -> Any:
        try:
            connection.ensure_connection()
            start.wait(timeout=30)
            return work(number)
        except Exception as error:  # noqa: BLE001 - told to the test
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(run, range(times)))


def buy(merchant, *offers):
    lines = [Line(offer.id, offer.product, 1) for offer in offers]
    return lambda number: services.reserve(merchant_id=merchant.id, reference=f"ord_{number}", lines=lines, by="test")


def outcomes(results: list[Any]) -> dict[str, int]:
    return dict(Counter(type(result).__name__ for result in results))


def test_of_ten_buyers_of_the_last_copy_one_wins(merchant, last_copy):
    assert outcomes(at_once(buy(merchant, last_copy))) == {"NoneType": 1, "InsufficientStock": 9}
    stock = Stock.objects.get()
    assert (stock.on_hand, stock.reserved) == (1, 1)
    assert StockHold.objects.count() == 1


def test_control_checking_first_and_writing_then_oversells(merchant, last_copy):
    everyone_has_looked = Barrier(BUYERS)

    def naive(number: int) -> None:
        stock = Stock.objects.get(pk=last_copy.id)
        everyone_has_looked.wait(timeout=30)
        if stock.available < 1:
            raise InsufficientStock([])
        stock.reserved += 1
        stock.save()
        StockHold.objects.create(
            merchant_id=merchant.id, reference=f"ord_{number}", product_id=last_copy.id, reserved=1
        )

    assert outcomes(at_once(naive)) == {"NoneType": BUYERS}
    assert StockHold.objects.count() == BUYERS  # ten promises of one copy


def test_where_the_condition_is_taken_out_the_database_still_refuses(merchant, last_copy, unguarded):
    unguarded.function("inventory_reserve", "AND shelf.on_hand - shelf.reserved >= line.quantity", "")
    results = at_once(buy(merchant, last_copy))
    assert outcomes(results) == {"NoneType": 1, IntegrityError.__name__: 9}
    assert StockHold.objects.count() == 1


def test_carts_in_opposite_orders_do_not_block_each_other(merchant):
    books = [make_product(merchant, stock=100) for _ in range(5)]

    def buy_often(number: int) -> None:
        cart = books if number % 2 else books[::-1]
        for purchase in range(10):
            buy(merchant, *cart)(f"{number}-{purchase}")

    assert outcomes(at_once(buy_often)) == {"NoneType": BUYERS}
    assert set(Stock.objects.values_list("reserved", flat=True)) == {100}


def test_ten_posts_with_one_key_move_stock_once(merchant):
    book, key = make_product(merchant).product, make_key(merchant)

    def post(number: int) -> tuple[int, int, bool]:
        answer = api_client(key).post(f"/api/v1/stock/{book}/restock", {"quantity": 7}, key="one")
        return answer.status_code, answer.json()["on_hand"], "Idempotent-Replayed" in answer.headers

    results = at_once(post)
    assert Counter(results) == {(200, 7, False): 1, (200, 7, True): 9}
    assert StockMovement.objects.count() == 1


def test_ten_calls_with_one_key_move_stock_once_without_the_stored_answer(merchant):
    book = make_product(merchant, stock=10)

    def deduct(number: int) -> int:
        level = services.deduct(
            merchant_id=merchant.id, product=book.product, quantity=3, reference="r", key="one", by="test"
        )
        return level.on_hand

    assert at_once(deduct) == [7] * BUYERS
    assert Stock.objects.get().on_hand == 7


# --- Restock against reserve: in every order, and without the lock -----------------------------------


def restock_against_reserve(race: Race, merchant, book) -> None:
    race.stop("inventory.services.lock_stock", at="after")
    race.stop_before_commit()
    race.actor(
        "restock",
        lambda: services.restock(merchant_id=merchant.id, product=book.product, quantity=5, key="van", by="test"),
    )
    race.actor("reserve", lambda: buy(merchant, book)(1))


@pytest.mark.parametrize("turns", orders("restock", "restock", "restock", "reserve", "reserve", "reserve"))
def test_a_restock_and_a_reservation_both_count(race, merchant, last_copy, turns):
    restock_against_reserve(race, merchant, last_copy)
    results = race.play(turns)
    assert results["reserve"] is None
    assert (results["restock"].on_hand, results["restock"].available) in [(6, 5), (6, 6)]
    stock, log = Stock.objects.get(), StockMovement.objects.order_by("at", "pk")
    assert (stock.on_hand, stock.reserved) == (6, 1)
    assert sum(movement.on_hand_change for movement in log) == 6
    assert {(row.on_hand_after, row.reserved_after) for row in log if row.reference or row.key == "van"} in [
        {(6, 0), (6, 1)},
        {(1, 1), (6, 1)},
    ]


def test_who_finds_nothing_left_is_refused_at_once_and_waits_for_nobody(race, merchant):
    """What a restock has not committed yet is not there. The same holds for 450 buyers of 50 copies."""
    sold_out = make_product(merchant, stock=1)
    buy(merchant, sold_out)(0)
    restock_against_reserve(race, merchant, sold_out)
    assert race.turn("restock") == "after inventory.services.lock_stock"
    assert race.turn("reserve") == "ended"
    assert isinstance(race.finish()["reserve"], InsufficientStock)
    stock = Stock.objects.get()
    assert (stock.on_hand, stock.reserved) == (6, 1)


def test_who_waited_for_the_last_copy_is_told_what_is_left_then(race, merchant, last_copy):
    race.stop_before_commit()
    for buyer in ("first", "second"):
        race.actor(buyer, lambda buyer=buyer: buy(merchant, last_copy)(buyer))
    assert race.turn("first").startswith("before")
    assert race.turn("second") == "waiting"
    results = race.finish()
    assert results["first"] is None
    assert results["second"].members["errors"] == [{"product": last_copy.product, "requested": 1, "available": 0}]


def test_control_without_the_lock_and_with_the_count_written_a_restock_is_lost(race, merchant, last_copy, monkeypatch):
    """What `on_hand = on_hand + …` and the lock before it are for: here each writes what it saw, plus its own."""

    def look(*, merchant_id, product_ids):
        seen.update({row.pk: row for row in Stock.objects.filter(pk__in=list(product_ids))})
        return {pk: Counts(row.on_hand, row.reserved) for pk, row in seen.items()}

    def write_the_count(operation, *, quantities, **_: Any) -> None:
        for product_id, quantity in quantities.items():
            Stock.objects.filter(pk=product_id).update(on_hand=seen[product_id].on_hand + quantity)

    seen: dict[Any, Stock] = {}
    monkeypatch.setattr(services, "lock_stock", look)
    monkeypatch.setattr(services, "_move_lines", write_the_count)
    race.stop("inventory.services.lock_stock", at="after")
    for van in ("first", "second"):
        race.actor(
            van,
            lambda van=van: services.restock(
                merchant_id=merchant.id, product=last_copy.product, quantity=5, key=van, by="test"
            ),
        )
    race.play("first second first second")
    assert Stock.objects.get().on_hand == 6  # and ten pieces came


@pytest.mark.parametrize("attempt", range(3))
def test_an_expiry_and_a_payment_of_one_order_agree(merchant, last_copy, attempt):
    buy(merchant, last_copy)(1)
    ends = [services.release_reserved, services.commit_reserved]
    released, committed = at_once(
        lambda number: ends[number](merchant_id=merchant.id, reference="ord_1", by="test"), times=2
    )
    assert released is None
    stock = Stock.objects.get()
    if committed is None:
        assert (stock.on_hand, stock.reserved) == (0, 0)
    else:
        assert isinstance(committed, NothingReserved)
        assert (stock.on_hand, stock.reserved) == (1, 0)


def test_a_batch_of_expiries_runs_beside_new_orders(merchant):
    book = make_product(merchant, stock=40)
    for number in range(20):
        buy(merchant, book)(f"old-{number}")

    def work(number: int) -> None:
        if number % 2:
            buy(merchant, book)(f"new-{number}")
        else:
            references = [(merchant.id, f"ord_old-{old}") for old in range(20)]
            services.release_reserved_many(references=references if number % 4 else references[::-1], by="expiry")

    assert outcomes(at_once(work)) == {"NoneType": BUYERS}
    stock = Stock.objects.get()
    assert (stock.on_hand, stock.reserved) == (40, 5)
    with transaction.atomic():
        released = StockMovement.objects.filter(operation="release_reserved")
        assert released.count() == 20


# --- Two counts of one shelf ---------------------------------------------------------------------------


def two_counts(race: Race, merchant, book) -> None:
    """Two clerks have counted the same shelf, and each says that three are missing."""
    version = Stock.objects.get(pk=book.id).version
    race.stop("inventory.services.lock_stock", at="after")
    race.stop_before_commit()
    for clerk in ("a", "b"):
        race.actor(
            clerk,
            partial(
                services.adjust,
                merchant_id=merchant.id,
                product=book.product,
                change=-3,
                key=clerk,
                by=clerk,
                reason="counted",
                expected_version=version,
            ),
        )


@pytest.mark.parametrize("turns", orders("a", "a", "a", "b", "b", "b", alike=True))
def test_of_two_who_counted_the_same_shelf_one_corrects_it(race, merchant, turns):
    book = make_product(merchant, stock=10)
    two_counts(race, merchant, book)
    results = race.play(turns)
    assert outcomes(list(results.values())) == {"StockLevel": 1, "ChangedMeanwhile": 1}
    assert Stock.objects.get().on_hand == 7


def test_control_without_the_version_the_shelf_is_corrected_twice(race, merchant, monkeypatch):
    monkeypatch.setattr(services, "_check_version", lambda *_: None)
    book = make_product(merchant, stock=10)
    two_counts(race, merchant, book)
    race.play("a b a b a b")
    assert Stock.objects.get().on_hand == 4  # and seven are there


def test_a_count_that_is_sent_twice_is_done_once_whatever_moved_since(merchant):
    book = make_product(merchant, stock=10)
    count = {"merchant_id": merchant.id, "product": book.product, "change": -3, "key": "c", "by": "x", "reason": "y"}
    version = Stock.objects.get().version
    assert services.adjust(**count, expected_version=version).on_hand == 7
    assert services.adjust(**count, expected_version=version).on_hand == 7  # the answer to the first was lost
