"""Expiry: many at once, whatever one of them does; what the timer may forget, and what the plan is."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from durability.models import Message, SagaRun
from foundation.database import database_now
from foundation.errors import IllegalTransition
from foundation.transition import transition_many
from inventory.models import Stock
from orders import services, timer
from orders.locks import BEGINNING, LOCK_DUE, lock_due
from orders.models import Order, OrderHistory
from orders.services.expiry import expire_batch
from orders.states import ORDER_EDGES
from payments.models import Payment, PaymentHistory
from tests.shop import settle


@pytest.fixture
def overdue(shop):
    """The numbers of three orders that never reached the provider and whose time is over."""
    numbers = [
        shop.checkout(headers={"Prefer": "respond-async"}, customer={"id": f"c-{number}"}).json()["order"]["number"]
        for number in range(3)
    ]
    Order.objects.update(expires_at=Now())
    services.rearm()
    return numbers


def statuses() -> list[str]:
    return sorted(Order.objects.values_list("status", flat=True))


def test_a_batch_leaves_the_rows_that_single_cancellations_leave(shop, overdue):
    assert services.expire_due() == 3
    assert statuses() == ["cancelled"] * 3
    assert set(Payment.objects.values_list("status", flat=True)) == {"cancelled"}
    for history in (OrderHistory, PaymentHistory):
        assert set(history.objects.values_list("from_state", "to_state", "by")) == {("pending", "cancelled", "expiry")}
        assert history.objects.count() == 3
    news = Message.objects.filter(name__contains="_cancelled")
    assert news.filter(name="orders.order_cancelled.v1").count() == 3
    assert news.filter(name="payments.payment_cancelled.v1").count() == 3
    assert set(overdue) <= set(news.values_list("key", flat=True))
    assert shop.level() == (10, 0)
    assert timer.due(database_now(), limit=10) == {}


def test_what_was_sent_is_cancelled_there_first_and_holds_up_nothing(shop, overdue):
    sent = shop.checkout().json()["order"]["number"]
    Order.objects.update(expires_at=Now())
    services.rearm()
    assert services.expire_due() == 4
    assert shop.order(sent)["status"] == "pending"
    assert statuses() == ["cancelled"] * 3 + ["pending"]
    settle()
    assert shop.order(sent)["status"] == "cancelled"


def test_one_order_that_fails_takes_none_of_its_batch_along(shop, overdue):
    shop.stock("rare", 1)
    bad = shop.checkout("rare", headers={"Prefer": "respond-async"}).json()["order"]["number"]
    Stock.objects.filter(product__product_id="rare").update(reserved=0)  # a release would make it negative
    Order.objects.update(expires_at=Now())
    services.rearm()
    services.expire_due()
    settle()
    assert [shop.order(number)["status"] for number in overdue] == ["cancelled"] * 3
    assert shop.order(bad)["status"] == "pending"
    run = SagaRun.objects.get(recipe="orders.cancel_unpaid", subject=bad)
    assert "reserved_within_on_hand" in run.error
    assert run.state == "running"  # it is tried again with growing pauses, and operators see it
    services.rearm()
    assert services.expire_due() == 0  # and expiry leaves it alone


def test_two_runs_share_the_work_and_neither_waits(overdue):
    first, second, third = Order.objects.order_by("expires_at", "pk")
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 FROM orders_order WHERE id = %s FOR UPDATE", [second.pk])
            assert [order.pk for order in expire_batch(limit=20)] == [first.pk, third.pk]
            cursor.execute("COMMIT")
    finally:
        other.close()
    assert [order.pk for order in expire_batch(limit=20)] == [second.pk]


def test_a_run_begins_with_one_order_so_that_a_new_process_plans_its_statements_holding_little(overdue):
    services.expire_due()
    with connection.cursor() as cursor:
        cursor.execute("SELECT xmin::text FROM orders_order ORDER BY expires_at, id")
        first, second, third = [row[0] for row in cursor]
    assert first != second == third


def test_a_run_goes_forward_only(overdue):
    with transaction.atomic():
        _, two, three = lock_due(after=BEGINNING, limit=10)
        assert lock_due(after=BEGINNING._replace(expires_at=two.expires_at, order_id=two.pk), limit=10) == [three]


def test_forgetting_leaves_what_was_armed_anew(db, valkey):
    past, later = database_now() - timedelta(seconds=2), database_now() - timedelta(seconds=1)
    timer.arm({"ord_a": past, "ord_b": past})
    looked_at = timer.due(database_now(), limit=10)
    timer.arm({"ord_b": later})
    timer.forget(looked_at)
    assert timer.due(database_now(), limit=10) == {"ord_b": later.timestamp()}


def test_the_timer_forgets_what_is_not_to_expire_any_more(overdue):
    Order.objects.update(expires_at=Now() + timedelta(hours=1))
    assert services.expire_due() == 0
    assert timer.due(database_now(), limit=10) == {}
    assert statuses() == ["pending"] * 3


def test_what_is_due_is_found_through_its_index(shop):
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO orders_order (id, merchant_id, status, customer, customer_email, customer_phone, currency,
                                      total_minor, carrier, tracking, expires_at, paid_at)
            SELECT uuidv7(), %s, CASE WHEN n %% 10 = 0 THEN 'pending' ELSE 'paid' END, 'c', '', '', 'usd', 1, '', '',
                   now() + make_interval(secs => n - 3000), now()
            FROM generate_series(1, 5000) n
            """,
            [shop.merchant_id],
        )
        cursor.execute("ANALYZE orders_order")
        cursor.execute("EXPLAIN " + LOCK_DUE, {**BEGINNING._asdict(), "limit": 100})
        plan = " ".join(row[0] for row in cursor.fetchall())
    assert "Index Scan using order_to_expire" in plan
    assert "Sort" not in plan


def test_many_rows_move_together_or_not_at_all(overdue):
    orders = list(Order.objects.all())
    Order.objects.filter(pk=orders[0].pk).update(status="cancelled")
    with pytest.raises(IllegalTransition), transaction.atomic():
        transition_many(
            Order,
            [order.pk for order in orders],
            before="pending",
            to="cancelled",
            edges=ORDER_EDGES,
            history=OrderHistory,
            by="test",
        )
    assert statuses() == ["cancelled", "pending", "pending"]
    assert not OrderHistory.objects.exists()


def test_while_a_sale_is_stuck_its_order_is_not_taken_up_at_every_tick(shop, monkeypatch):
    """Its money is here, so it is not cancelled; and it is not asked about again and again either."""

    def breaks(**_: object) -> None:
        raise RuntimeError("the worker has a bad day")

    monkeypatch.setattr(services, "mark_paid", breaks)
    shop.checkout(payment={"method": "card", "payment_method": "pm_card_visa", "confirm": True})
    settle()
    Order.objects.update(expires_at=Now())
    for _ in range(3):
        services.rearm()
        services.expire_due()
        settle()
    order = Order.objects.get()
    assert (order.status, order.cancel_requested_at) == ("pending", None)
    assert SagaRun.objects.filter(recipe="orders.cancel_unpaid").count() == 1
