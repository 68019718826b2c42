"""Key against key: whatever a storefront sends twice at once, one order is placed. And two that block each other."""

from typing import Any

import pytest
from django.db import connection, transaction

from durability.models import IdempotencyKey
from inventory.models import Stock
from orders import services
from orders.models import Order
from payments.models import Payment
from tests.races import Race, orders
from tests.shop import Shop

Told = tuple[int, str, bool]  # status, the order's number or the problem's code, whether it was replayed


def told(answer: Any) -> Told:
    body = answer.json()
    return answer.status_code, body.get("code") or body["order"]["number"], "Idempotent-Replayed" in answer.headers


def same_key_twice(race: Race, shop: Shop, *, quantities: tuple[int, int] = (1, 1), leaving: int = 10) -> None:
    """`shelf` holds the book's row: who checks out meanwhile has taken the key and written the order, and waits there."""
    race.stop(f"{__name__}.pause")
    race.stop("payments.gateway.create_intent")  # the order is committed, its answer not stored
    race.actor("shelf", lambda: hold_the_shelf(reserving=10 - leaving))
    race.actor("a", lambda: told(shop.checkout(quantity=quantities[0], key="one")))
    race.actor("b", lambda: told(shop.checkout(quantity=quantities[1], key="one")))
    race.turn("shelf")


def hold_the_shelf(*, reserving: int) -> None:
    with transaction.atomic():
        Stock.objects.update(reserved=reserving)
        pause()


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", "shelf", alike=True))
def test_one_key_sent_twice_at_once_places_one_order(race, shop, turns):
    same_key_twice(race, shop)
    results = race.play(turns)
    number = Order.objects.get().number
    assert results["a"] == (201, number, False)
    # Whoever comes second waits for the first's commit. Then it finds the stored answer, or the first still at work.
    assert results["b"] in [(201, number, True), (201, number, False), (409, "idempotency_key_in_use", False)]
    assert told(shop.checkout(key="one")) == (201, number, True)
    assert (Payment.objects.count(), shop.level()) == (1, (10, 1))


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", "shelf", alike=True))
def test_one_key_sent_twice_at_once_with_other_bodies_is_refused_the_second_time(race, shop, turns):
    same_key_twice(race, shop, quantities=(1, 2))
    results = race.play(turns)
    assert results["a"] == (201, Order.objects.get().number, False)
    assert results["b"] == (422, "idempotency_key_reused", False)


@pytest.mark.parametrize("turns", orders("a", "b", "shelf", alike=True))
def test_where_the_first_is_refused_the_second_has_the_key(race, shop, turns):
    """A refusal rolls the key back: its twin is not told of it, it is refused for itself."""
    same_key_twice(race, shop, leaving=0)
    results = race.play(turns)
    assert {results["a"], results["b"]} == {(409, "insufficient_stock", False)}
    assert not IdempotencyKey.objects.exists()


def test_a_twin_waits_for_the_key_and_not_for_the_shelf(race, shop):
    same_key_twice(race, shop)
    assert race.turn("a") == "waiting"
    assert race.turn("b") == "waiting"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_blocking_pids(%s), pg_blocking_pids(%s)",
            [race._actors["a"].pid, race._actors["b"].pid],
        )
        assert cursor.fetchone() == ([race._actors["shelf"].pid], [race._actors["a"].pid])
    race.finish()


def test_control_looking_before_inserting_places_two_orders(race, shop, unguarded):
    """The way that many libraries do it: look, then insert."""
    look = "SELECT FROM durability_idempotencykey used WHERE used.key = claim ->> 'key'"
    unguarded.function("durability_claim_key", "BEGIN\n", f"BEGIN\n IF EXISTS ({look}) THEN RETURN NULL; END IF;\n")
    unguarded.function("durability_claim_key", "ON CONFLICT (caller, key) DO NOTHING", "")
    unguarded.unique("durability_idempotencykey", "idempotency_key_once_per_caller")
    same_key_twice(race, shop)
    results = race.play("a b shelf")
    assert [results[name][0] for name in "ab"] == [201, 201]
    assert Order.objects.count() == 2  # of one cart


# --- Requests that block each other -----------------------------------------------------------------


def lock(order: str) -> None:
    Order.objects.select_for_update().get(pk=Order.id_of(order))


def crossing(race: Race, shop: Shop, monkeypatch) -> None:
    """A request locks one order and then another; a transaction beside it takes them the other way round."""
    first, second = (str(shop.bought()["number"]) for _ in range(2))
    ship = services.ship_order

    def ship_and_lock(**wanted: Any) -> None:
        ship(**wanted)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL deadlock_timeout = '1ms'")  # the request it shall be that PostgreSQL rolls back
        lock(second)

    def other_way_round() -> str:
        with transaction.atomic():
            lock(second)
            pause()
            lock(first)
        return "through"

    monkeypatch.setattr(services, "ship_order", ship_and_lock)
    race.stop("orders.services.fulfilment.lock_order", at="after")
    race.stop(f"{__name__}.pause")
    race.actor("request", lambda: shop.post(f"/orders/{first}/ship").status_code)
    race.actor("other", other_way_round)


def pause() -> None:
    """A point to stop at."""


def test_a_request_that_loses_a_deadlock_is_done_anew(race, shop, monkeypatch):
    crossing(race, shop, monkeypatch)
    assert race.play("request other other request") == {"request": 200, "other": "through"}
    assert Order.objects.filter(status="shipped").count() == 1
    assert IdempotencyKey.objects.count() == 3  # two checkouts, one shipping: the lost try left nothing


def test_control_a_request_that_is_not_done_anew_fails(race, shop, monkeypatch):
    monkeypatch.setattr("foundation.database._TRIES", 1)
    crossing(race, shop, monkeypatch)
    assert race.play("request other other request") == {"request": 503, "other": "through"}
    assert not Order.objects.filter(status="shipped").exists()
