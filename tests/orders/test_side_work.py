"""What follows a sale (mail, text message, merchant's system, statistics) can neither fail nor delay it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models.functions import Now

from durability import outbox, registry, shares
from durability import services as durability
from durability.models import Delivery
from durability.types import Lane
from foundation.database import database_now
from orders import selectors
from orders.models import DailySales, Order
from orders.services import statistics
from payments import gateway
from payments import services as payments
from payments.locks import lock_refund
from payments.models import Refund
from payments.services import refund_news
from tests.campaigns.boundaries.runner import leave_connections_to_the_parent
from tests.credit import points
from tests.orders.test_sale import pay_in_browser
from tests.shop import RECENT, Shop, open_shop, settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
# Handler → where it does its work.
SIDE_WORK = {
    "orders.mail_receipt": "orders.services.letters.send_receipt",
    "orders.text_receipt": "orders.services.letters.text_receipt",
    "orders.call_merchant": "orders.services.merchant_calls.tell",
    "orders.count_sale": "orders.services.statistics.count_sale",
}


@pytest.fixture(autouse=True)
def _nobody_rests() -> Iterator[None]:
    shares.forget()
    yield
    shares.forget()


def raising(**_: Any) -> None:
    raise RuntimeError("broken")


def killing(**_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work(lane: Lane) -> int:
    return durability.work(lane)


def make_due() -> None:
    Delivery.objects.filter(state__in=["pending", "running"]).update(available_at=Now())
    shares.forget()


def sold(shop: Shop) -> str:
    """A sale, seen through by those who need nothing from outside; what follows it has not begun, or hangs."""
    number: str = shop.checkout(payment=CONFIRMED).json()["order"]["number"]
    while work(Lane.OWN):
        pass
    return number


def is_through(shop: Shop, number: str) -> None:
    """Paid, posted, out of stock, and ready to be shipped."""
    assert shop.order(number)["status"] == "paid"
    assert shop.post(f"/orders/{number}/ship").status_code == 200


def in_a_worker_of_its_own(job: Callable[[], Any]) -> int:
    """Do it in a child process; how that ended."""
    child = os.fork()
    if not child:
        leave_connections_to_the_parent()
        try:
            job()
            os._exit(0)
        except BaseException:  # noqa: BLE001  told by the exit code
            os._exit(1)
    return os.waitpid(child, 0)[1]


# --- It stands aside --------------------------------------------------------------------------------


def test_whatever_tells_people_stands_aside():
    """A handler of orders that goes outside, or counts, and does not stand aside would share a sale's fate."""
    ours = [one for one in registry.handlers() if one.run.__module__ == "orders.handlers"]
    money = {"orders.receive_payment", "orders.give_back_after_dispute"}
    assert {one.name for one in ours if not one.aside and ".note_" not in one.name} == money
    assert {one.lane for one in ours if one.aside} == {Lane.OUTSIDE}


@pytest.mark.parametrize("handler", SIDE_WORK)
def test_a_handler_that_raises_fails_alone(shop, monkeypatch, settings, handler):
    settings.DELIVERY_MAX_ATTEMPTS = 2
    monkeypatch.setattr(SIDE_WORK[handler], raising)
    number = sold(shop)
    for _ in range(2):
        make_due()
        work(Lane.OUTSIDE)
    states = dict(Delivery.objects.filter(handler__in=SIDE_WORK).values_list("handler", "state"))
    assert states == dict.fromkeys(SIDE_WORK, "done") | {handler: "parked"}
    is_through(shop, number)


@pytest.mark.parametrize("handler", SIDE_WORK)
def test_a_handler_that_hangs_holds_up_no_sale(shop, monkeypatch, handler):
    """One worker is stuck in it, holding whatever it holds; meanwhile a sale goes through."""
    reached, let_go = threading.Event(), threading.Event()

    def hanging(**_: Any) -> None:
        reached.set()
        let_go.wait(20)

    monkeypatch.setattr(SIDE_WORK[handler], hanging)
    sold(shop)

    def stuck() -> None:
        try:
            work(Lane.OUTSIDE)
        finally:
            connections.close_all()

    worker = threading.Thread(target=stuck)
    worker.start()
    try:
        assert reached.wait(10)
        began = time.monotonic()
        is_through(shop, sold(shop))
        assert time.monotonic() - began < 5
        assert worker.is_alive()
    finally:
        let_go.set()
        worker.join()


@pytest.mark.parametrize("handler", SIDE_WORK)
def test_a_handler_that_kills_its_process_takes_no_sale_along(shop, monkeypatch, settings, handler):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    number = sold(shop)
    with monkeypatch.context() as broken:
        broken.setattr(SIDE_WORK[handler], killing)
        assert in_a_worker_of_its_own(lambda: work(Lane.OUTSIDE)) == signal.SIGKILL
    is_through(shop, number)
    for _ in range(len(SIDE_WORK) + 1):  # what a dead worker held is taken up one by one
        make_due()
        work(Lane.OUTSIDE)
    states = dict(Delivery.objects.filter(handler__in=SIDE_WORK).values_list("handler", "state"))
    assert states[handler] == "parked"
    assert DailySales.objects.count() == (handler != "orders.count_sale")


def test_what_a_sale_waits_for_comes_before_what_stands_aside(shop, sandbox):
    """A browser's payment is read in the same lane: mail that came before it does not go first."""
    placed = shop.checkout().json()
    sold(shop)
    pay_in_browser(sandbox, placed["payment"])
    payments.replay_events(since=database_now() - RECENT)
    claims = outbox.claim(Lane.OUTSIDE, limit=100)
    aside = [handler.aside != "" for one in claims if (handler := registry.handler(one.handler))]
    assert aside == sorted(aside)
    assert set(aside) == {True, False}
    assert claims[0].id > claims[-1].id


def test_those_who_depend_on_one_server_share_one_share():
    assert registry.alongside("orders.mail_receipt") >= {"orders.mail_receipt", "orders.mail_refund"}
    assert registry.alongside("orders.mail_receipt").isdisjoint(registry.alongside("orders.call_merchant"))
    assert registry.alongside("payments.apply_provider_event") == {"payments.apply_provider_event"}


# --- Statistics -------------------------------------------------------------------------------------


def days(shop: Shop) -> dict[str, tuple[int, int, int, int]]:
    """Currency → (orders paid, revenue, refunds, refunded) of the one day."""
    return {
        row.currency: (row.orders_paid, row.revenue_minor, row.refunds, row.refunded_minor)
        for row in DailySales.objects.filter(merchant_id=shop.merchant_id)
    }


def test_a_day_adds_up_by_merchant_and_currency(shop):
    shop.stock("comic", 5, price=700, currency="jpy")
    other = open_shop()
    other.stock("book", 5)
    for _ in range(2):
        shop.bought()
    shop.bought("comic")
    payment = shop.bought(quantity=2)["payments"][0]["number"]
    shop.post(f"/payments/{payment}/refunds", {"amount": 500, "reason": "x"})
    shop.checkout()
    other.bought()
    settle()
    assert days(shop) == {"usd": (3, 6000, 1, 500), "jpy": (1, 700, 0, 0)}
    assert days(other) == {"usd": (1, 1500, 0, 0)}
    order = Order.objects.filter(status="paid").latest("paid_at")
    assert order.paid_at is not None
    assert set(DailySales.objects.values_list("date", flat=True)) == {order.paid_at.astimezone(UTC).date()}


def test_an_event_is_counted_once_however_often_its_worker_dies(shop, monkeypatch):
    """The count commits together with its receipt, or not at all."""
    sold(shop)

    def count_and_die(**arguments: Any) -> None:
        count(**arguments)
        killing()

    count = statistics.count_sale
    with monkeypatch.context() as broken:
        broken.setattr(SIDE_WORK["orders.count_sale"], count_and_die)
        assert in_a_worker_of_its_own(lambda: work(Lane.OUTSIDE)) == signal.SIGKILL
    assert days(shop) == {}
    settle(webhooks=False)
    make_due()
    work(Lane.OUTSIDE)
    assert days(shop) == {"usd": (1, 1500, 0, 0)}


def test_a_refund_that_comes_back_is_taken_off_again(shop):
    payment = shop.bought()["payments"][0]["number"]
    shop.post(f"/payments/{payment}/refunds", {"reason": "x"})
    settle()
    assert days(shop) == {"usd": (1, 1500, 1, 1500)}
    refund = Refund.objects.get()
    came_back = replace(gateway.retrieve_refund(refund.provider_reference or ""), status="failed")
    with transaction.atomic():
        refund_news.apply_refund(*lock_refund(refund.pk), came_back, by="test")
    settle(webhooks=False)
    assert days(shop) == {"usd": (1, 1500, 0, 0)}


def test_money_that_never_was_a_sale_is_not_counted(shop, sandbox, mailoutbox):
    """A payment that the provider made of an order that was not to be had any more: all of it goes back."""
    placed = shop.checkout().json()
    Order.objects.update(status="cancelled")
    pay_in_browser(sandbox, placed["payment"])
    settle()
    assert shop.order(placed["order"]["number"])["refund_status"] == "refunded"
    assert days(shop) == {}
    assert [one.subject for one in mailoutbox] == ["Your refund of $15.00"]


def test_points_are_counted_as_they_are_earned_and_taken_back(transactional_db, valkey, sandbox):
    sandbox.control("POST", "webhooks", {"mode": "drop"})
    shop = open_shop(loyalty_rate_bp=10_000)  # a point a dollar
    shop.stock("book", 5)
    payment = shop.bought(quantity=2)["payments"][0]["number"]
    settle()
    assert DailySales.objects.get().points == 30
    shop.post(f"/payments/{payment}/refunds", {"amount": 1500, "reason": "x"})
    settle()
    assert DailySales.objects.get().points == 15 == points(shop)


def test_the_desk_reads_the_busiest_shops(shop):
    others = [open_shop() for _ in range(2)]
    for other in others:
        other.stock("book", 5)
    shop.bought()
    shop.bought()
    others[0].bought()
    today = database_now().astimezone(UTC).date()
    found = selectors.daily_sales(since=today, limit=1)
    assert [(day.merchant_id, day.orders_paid, day.revenue_minor) for day in found] == [(shop.merchant_id, 2, 3000)]
    assert len(selectors.daily_sales(since=today, limit=5)) == 2
