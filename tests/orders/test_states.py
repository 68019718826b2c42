"""An order's states: every edge of the table and no other, in code, by raw SQL and over HTTP; and who took each step."""

from itertools import product
from typing import Any

import pytest
from django.db import Error, connection, transaction
from django.db.models.functions import Now

from catalog.models import ApiKey
from foundation.errors import IllegalTransition
from foundation.transition import transition
from orders import services
from orders.errors import OrderDisputed
from orders.models import Order, OrderHistory
from orders.states import ORDER_EDGES, OrderStatus
from payments.models import Payment
from tests.shop import Shop, open_shop, settle

STATES = [value for name, value in vars(OrderStatus).items() if name.isupper()]
CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def make(status: str) -> Order:
    """A row in a state, past all services."""
    paid_at = None if status in ("pending", "cancelled") else Now()
    return Order.objects.create(
        merchant_id="01935d2b-0000-7000-8000-000000000000",
        status=status,
        customer="c",
        currency="usd",
        total_minor=1,
        expires_at=Now(),
        paid_at=paid_at,
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("before", "to"), [pair for pair in product(STATES, STATES) if pair[0] != pair[1]])
def test_an_edge_is_taken_where_the_table_names_it_and_nowhere_else(before, to):
    """By a service and by raw SQL."""
    legal = (before, to) in ORDER_EDGES
    by_code, by_sql = make(before), make(before)
    values = {"paid_at": Now()} if to == "paid" else {}
    if legal:
        with transaction.atomic():
            transition(by_code, to, edges=ORDER_EDGES, history=OrderHistory, by="test", values=values)
    else:
        with pytest.raises(IllegalTransition), transaction.atomic():
            transition(by_code, to, edges=ORDER_EDGES, history=OrderHistory, by="test", values=values)
    statement = "UPDATE orders_order SET status = %s, paid_at = coalesce(paid_at, now()) WHERE id = %s"
    if legal:
        with connection.cursor() as cursor:
            cursor.execute(statement, [to, by_sql.pk])
    else:
        with pytest.raises(Error, match="Invalid transition"), connection.cursor() as cursor:
            cursor.execute(statement, [to, by_sql.pk])
    assert [Order.objects.get(pk=one.pk).status for one in (by_code, by_sql)] == [to if legal else before] * 2
    assert OrderHistory.objects.count() == legal


@pytest.mark.django_db(transaction=True)
def test_what_was_written_into_the_history_stays():
    with transaction.atomic():
        transition(make("pending"), "cancelled", edges=ORDER_EDGES, history=OrderHistory, by="test")
    for change in (lambda: OrderHistory.objects.update(by="another"), OrderHistory.objects.all().delete):
        with pytest.raises(Error, match="Cannot update or delete"), transaction.atomic():
            change()


# --- Over HTTP --------------------------------------------------------------------------------------


def brought_to(shop: Shop, status: str) -> str:
    """An order that the API brought into a state: its number."""
    if status in ("pending", "cancelled"):
        number: str = shop.checkout().json()["order"]["number"]
        if status == "cancelled":
            assert shop.post(f"/orders/{number}/cancel").status_code == 200
        return number
    number = shop.bought()["number"]
    if status in ("shipped", "completed"):
        assert shop.post(f"/orders/{number}/ship").status_code == 200
    if status == "completed":
        assert shop.post(f"/orders/{number}/complete").status_code == 200
    return number


# What operations may do to an order: (status, what it is then).
ALLOWED = {
    ("pending", "cancel"): "cancelled",
    ("paid", "cancel"): "paid",  # until its refund has succeeded
    ("cancelled", "cancel"): "cancelled",  # asked again: it is
    ("paid", "ship"): "shipped",
    ("shipped", "complete"): "completed",
}


@pytest.mark.parametrize("status", STATES)
def test_each_call_is_answered_by_the_state_that_the_order_is_in(shop, status):
    for act in ("cancel", "ship", "complete"):
        number = brought_to(shop, status)
        steps = OrderHistory.objects.filter(subject=Order.id_of(number)).count()
        answer = shop.post(f"/orders/{number}/{act}")
        becomes = ALLOWED.get((status, act))
        if becomes:
            assert (answer.status_code, answer.json()["status"]) == (200, becomes), act
        else:
            assert (answer.status_code, answer.json()["code"]) == (409, "illegal_transition"), act
            assert shop.order(number)["status"] == status
            assert OrderHistory.objects.filter(subject=Order.id_of(number)).count() == steps


def history(number: str) -> list[tuple[str, str, str]]:
    rows = OrderHistory.objects.filter(subject=Order.id_of(number)).order_by("pk")
    return list(rows.values_list("from_state", "to_state", "by"))


def test_the_history_says_who_took_each_step(shop):
    number = shop.bought()["number"]
    shop.post(f"/orders/{number}/ship")
    shop.post(f"/orders/{number}/complete")
    key = ApiKey.objects.get(merchant_id=shop.merchant_id, name="operations")
    by_key = f"API key operations (ek_{key.prefix}_…)"
    assert history(number) == [
        ("pending", "paid", "payment-success"),
        ("paid", "shipped", by_key),
        ("shipped", "completed", by_key),
    ]


def test_the_history_of_a_cancelled_order_says_who_and_why(shop):
    number = brought_to(shop, "cancelled")
    assert history(number)[0][:2] == ("pending", "cancelled")
    assert history(number)[0][2].startswith("API key operations (ek_")
    expired = shop.checkout(headers={"Prefer": "respond-async"}).json()["order"]["number"]
    Order.objects.filter(status="pending").update(expires_at=Now())
    services.rearm()
    services.expire_due()
    assert history(expired) == [("pending", "cancelled", "expiry")]
    assert OrderHistory.objects.latest("pk").why == "not paid in time"


# --- Expiry, by merchant ----------------------------------------------------------------------------


def test_each_merchants_orders_live_as_long_as_its_terms_say(shop):
    patient = open_shop(order_expires_after_s=3600)
    patient.stock("book", 1)
    lives = {}
    for one in (shop, patient):
        order = Order.objects.get(pk=Order.id_of(one.checkout().json()["order"]["number"]))
        lives[one.merchant_id] = round((order.expires_at - order.created_at).total_seconds())
    assert lives == {shop.merchant_id: 900, patient.merchant_id: 3600}


# --- Disputed ---------------------------------------------------------------------------------------


def disputed(shop: Shop, sandbox: Any, **body: Any) -> tuple[str, str]:
    """A paid order whose payment is disputed, and the dispute."""
    number = shop.bought()["number"]
    intent = Payment.objects.get(reference=number).provider_reference
    made = sandbox.control("POST", "disputes", {"payment_intent": intent, **body})
    settle()
    return number, made["id"]


def decide(sandbox: Any, dispute: str, status: str) -> None:
    sandbox.control("POST", "disputes/outcome", {"dispute": dispute, "status": status})
    settle()


@pytest.mark.parametrize("outcome", ["", "lost"])
def test_what_the_customers_bank_takes_back_is_not_shipped(shop, sandbox, outcome):
    number, dispute = disputed(shop, sandbox)
    if outcome:
        decide(sandbox, dispute, outcome)
    answer = shop.post(f"/orders/{number}/ship")
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_disputed")
    assert answer.json()["payment"] == shop.order(number)["payments"][0]["number"]
    assert shop.order(number)["status"] == "paid"


def test_a_dispute_that_is_won_lets_the_order_go(shop, sandbox):
    number, dispute = disputed(shop, sandbox)
    decide(sandbox, dispute, "won")
    assert shop.post(f"/orders/{number}/ship").status_code == 200


def test_a_bank_that_only_asks_stops_nothing(shop, sandbox):
    number, _ = disputed(shop, sandbox, inquiry=True)
    assert shop.post(f"/orders/{number}/ship").status_code == 200


def test_staff_ships_a_disputed_order_with_a_reason(shop, sandbox):
    number, _ = disputed(shop, sandbox)
    sent = {"number": number, "merchant_id": shop.merchant_id, "carrier": "Post", "tracking": "1", "by": "olga"}
    with pytest.raises(OrderDisputed), transaction.atomic():
        services.ship_order(**sent, why="the customer signed")
    with transaction.atomic():
        services.ship_order(**sent, why="the customer signed", although_disputed=True)
    last = OrderHistory.objects.latest("pk")
    assert (last.to_state, last.by) == ("shipped", "olga")
    assert last.why == "although its payment is disputed: the customer signed"
