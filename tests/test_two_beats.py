"""Two beats: whatever is scheduled is done twice at the same moment, and has its effect once.

Every job of the schedule stands here with something to do; one that is added to the schedule must be added here.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from catalog.models import Merchant
from durability import stream
from durability.models import Delivery, Heartbeat, IdempotencyKey, Message, Subscription
from foundation.database import database_now
from foundation.ids import uuid7
from foundation.redis import client
from inventory.models import StockCheck, StockMovement
from orders import locks, timer
from orders import services as orders_services
from orders.models import MerchantCall, Order, OrderHistory
from orders.services import expiry
from payments import services as payments_services
from payments.models import BookCut, BooksCheck, InboxEvent, JournalEntry, Payment, Posting
from payments.providers import stripe as provider
from payments.services import attempts
from reconciliation import services as reconciliation_services
from reconciliation.models import (
    AuditRow,
    BulkItem,
    Discrepancy,
    DiscrepancyAction,
    DiscrepancyHistory,
    ProviderBalanceReading,
    ReconciliationRun,
)
from reconciliation.types import Action, ActionInput
from tests.races import Race
from tests.shop import Shop, open_shop, settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
ASYNC = {"Prefer": "respond-async"}
LONG_AGO = timedelta(days=400)


@dataclass(frozen=True)
class Job:
    """What it finds to do, where both stop with the work in their hands, and what must be true afterwards."""

    prepare: Callable[[Shop], object]
    stop: str  # after this function; `commit`: before the first commit
    once: Callable[[Shop], object]


@pytest.fixture
def shop(transactional_db, valkey, sandbox) -> Shop:
    sandbox.control("POST", "webhooks", {"mode": "drop"})
    shop = open_shop()
    shop.stock("book", 10)
    return shop


# --- What there is to do, and what it comes to ------------------------------------------------------


def captured(shop: Shop) -> None:
    """A capture that nobody has been told of: its delivery is due, then the saga of the sale."""
    shop.checkout(payment=CONFIRMED)


def sold_once(shop: Shop) -> None:
    settle()
    kinds = Counter(JournalEntry.objects.values_list("kind", flat=True))
    assert kinds == {"capture": 1, "fee": 1, "sale": 1}
    assert (Order.objects.get().status, shop.level()) == ("paid", (9, 0))


def unsent(shop: Shop) -> None:
    shop.checkout(headers=ASYNC)


def opened_once(shop: Shop) -> None:
    intents = provider._listing(
        "payment_intents", {"created": {"gte": int(Payment.objects.get().created_at.timestamp())}}
    )
    number = Payment.objects.get().number
    assert sum((row.get("metadata") or {}).get("payment") == number for row in intents) == 1


def streamed_once(shop: Shop) -> None:
    rows: Any = client().xrange(settings.OUTBOX_STREAM)
    entries = Counter(int(fields["id"]) for _, fields in rows)
    assert entries == dict.fromkeys(Message.objects.values_list("pk", flat=True), 1)


def seen_once(shop: Shop) -> None:
    assert set(Counter(Heartbeat.objects.values_list("name", flat=True)).values()) == {1}


def unheard(shop: Shop) -> None:
    """As if the publisher had not known the handler."""
    captured(shop)
    current_app.tasks["durability.subscribe"]()
    Delivery.objects.all().delete()
    Subscription.objects.update(checked_to=0)


def heard_once(shop: Shop) -> None:
    assert Delivery.objects.exists()
    sold_once(shop)


def old_rows(shop: Shop) -> None:
    shop.bought()
    IdempotencyKey.objects.update(created_at=Now() - LONG_AGO)
    InboxEvent.objects.update(received_at=Now() - LONG_AGO)
    shop.checkout()


def only_young_keys(shop: Shop) -> None:
    assert IdempotencyKey.objects.count() == 1


def only_young_events(shop: Shop) -> None:
    assert not InboxEvent.objects.exists()


def uncalled(shop: Shop, **values: Any) -> None:
    """Nobody answers at this address."""
    Merchant.objects.update(webhook_url="https://127.0.0.1:1/")
    MerchantCall.objects.create(merchant_id=shop.merchant_id, event="toys", subject="ord_1", payload={}, **values)


def called_once(shop: Shop) -> None:
    assert MerchantCall.objects.get().attempts == 1


def old_calls(shop: Shop) -> None:
    uncalled(shop)
    uncalled(shop, state="delivered", delivered_at=Now(), created_at=Now() - LONG_AGO)


def only_young_calls(shop: Shop) -> None:
    assert MerchantCall.objects.get().state == "pending"


def balance_read_alike(shop: Shop) -> None:
    """Each reading is a proof of its own moment: two of them say the same, and change nothing."""
    balances = ProviderBalanceReading.objects.values_list("balances", flat=True)
    assert len(balances) == 2
    assert balances[0] == balances[1]


def overdue(shop: Shop) -> None:
    """One that never reached the provider, and one that did."""
    shop.checkout(headers=ASYNC)
    shop.checkout()
    Order.objects.update(expires_at=Now())
    orders_services.rearm()


def expired_once(shop: Shop) -> None:
    settle()
    assert set(Order.objects.values_list("status", flat=True)) == {"cancelled"}
    assert OrderHistory.objects.filter(to_state="cancelled").count() == 2
    assert Message.objects.filter(name__startswith="orders.order_cancelled").count() == 2
    assert StockMovement.objects.filter(operation="release_reserved").count() == 2
    assert shop.level() == (10, 0)


def disarmed(shop: Shop) -> None:
    overdue(shop)
    client().delete(timer._SET)


def armed_once(shop: Shop) -> None:
    assert client().zcard(timer._SET) == 2


def unchecked(shop: Shop) -> None:
    shop.checkout()
    Payment.objects.update(next_check_at=Now())


def checked_once(shop: Shop) -> None:
    assert Payment.objects.get().checks == 1


def untold(shop: Shop) -> None:
    captured(shop)


def told_once(shop: Shop) -> None:
    received = Message.objects.filter(name__startswith="payments.provider_event")
    assert InboxEvent.objects.count() == received.count() > 0
    sold_once(shop)


def yesterday(shop: Shop) -> None:
    """A sale of yesterday that the provider has never heard of: one discrepancy."""
    shop.bought()
    moment = database_now() - timedelta(days=1)
    Payment.objects.update(captured_at=moment)


def reconciled_once(shop: Shop) -> None:
    assert set(ReconciliationRun.objects.values_list("state", flat=True)) == {"completed"}
    found = Counter(Discrepancy.objects.values_list("fingerprint", flat=True))
    assert set(found.values()) == {1}


def found_yesterday(shop: Shop) -> Discrepancy:
    yesterday(shop)
    reconciliation_services.reconcile_day(day=(database_now() - timedelta(days=1)).date(), by="test")
    return Discrepancy.objects.get()


def confirmed_in_bulk(shop: Shop) -> None:
    item = found_yesterday(shop)
    bulk_id = uuid7()
    reconciliation_services.plan_bulk(
        bulk_id=bulk_id, action=Action.ACCEPT, discrepancies=[item.pk], by="test", scope="one"
    )
    reconciliation_services.carry_out(bulk_id=bulk_id, by="test", note="a test")


def acted_once(shop: Shop) -> None:
    assert list(BulkItem.objects.values_list("state", "attempts")) == [("done", 1)]
    assert list(DiscrepancyAction.objects.values_list("action", "outcome")) == [("accept", "ok")]


def ignored_until_today(shop: Shop) -> None:
    item = found_yesterday(shop)
    today = database_now().date()
    reconciliation_services.perform(
        discrepancy_id=item.pk,
        action=Action.IGNORE_UNTIL,
        by="test",
        note="a test",
        given=ActionInput(until=today + timedelta(days=1)),
    )
    Discrepancy.objects.update(ignored_until=today)


def woken_once(shop: Shop) -> None:
    assert Discrepancy.objects.get().state == "open"
    assert DiscrepancyHistory.objects.filter(from_state="ignored").count() == 1


def chained_once(shop: Shop) -> None:
    objects = list(AuditRow.objects.values_list("object", flat=True))
    assert f"item:{Discrepancy.objects.get().pk}" in objects
    assert len(objects) == len(set(objects))


def posted_yesterday(shop: Shop) -> None:
    """Nobody can date a posting: past the triggers, as a superuser may."""
    shop.bought()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        for table, column in (("payments_journalentry", "created_at"), ("payments_posting", "posted_at")):
            cursor.execute(f"UPDATE {table} SET {column} = {column} - interval '1 day'")


def cut_once(shop: Shop) -> None:
    assert list(BookCut.objects.values_list("number", "postings")) == [(1, Posting.objects.count())]
    payments_services.check_books(day=database_now().date())
    proved_once(shop)


def proved_once(shop: Shop) -> None:
    assert list(BooksCheck.objects.values_list("found", flat=True)) == [0]


def stock_proved_once(shop: Shop) -> None:
    assert list(StockCheck.objects.values_list("found", flat=True)) == [0]


JOBS = {
    "durability.work_own": Job(captured, "durability.outbox.claim", sold_once),
    "durability.work_outside": Job(unsent, "durability.engine._take", opened_once),
    "durability.mirror": Job(captured, "durability.stream.client", streamed_once),
    "durability.seen_own": Job(captured, "commit", seen_once),
    "durability.seen_outside": Job(captured, "commit", seen_once),
    "durability.seen_long": Job(captured, "commit", seen_once),
    "durability.subscribe": Job(unheard, "commit", heard_once),
    "durability.clean_up": Job(old_rows, "commit", only_young_keys),
    "orders.expire_due": Job(overdue, "orders.services.expiry.payments.cancel_never_sent", expired_once),
    "orders.rearm_timer": Job(disarmed, "orders.services.expiry.database_now", armed_once),
    "orders.call_merchants": Job(uncalled, "orders.services.merchant_calls._claim", called_once),
    "orders.clean_up": Job(old_calls, "commit", only_young_calls),
    "inventory.check_stock": Job(captured, "commit", stock_proved_once),
    "payments.recheck": Job(unchecked, "payments.services.rereads._due", checked_once),
    "payments.catch_up_events": Job(untold, "commit", told_once),
    "payments.clean_up": Job(old_rows, "commit", only_young_events),
    "payments.cut_books": Job(posted_yesterday, "payments.services.books._insert_cut", cut_once),
    "payments.check_books": Job(posted_yesterday, "commit", proved_once),
    "reconciliation.read_balance": Job(
        captured, "reconciliation.services.balances.payments.read_provider_balance", balance_read_alike
    ),
    "reconciliation.nightly": Job(yesterday, "reconciliation.services.runs._begin", reconciled_once),
    "reconciliation.work_on_bulk": Job(confirmed_in_bulk, "reconciliation.services.bulk._claim", acted_once),
    "reconciliation.wake_ignored": Job(ignored_until_today, "commit", woken_once),
    "reconciliation.extend_chain": Job(found_yesterday, "commit", chained_once),
}


def test_every_scheduled_job_is_here():
    assert set(JOBS) == set(settings.CELERY_BEAT_SCHEDULE)


def two_beats(race: Race, shop: Shop, name: str) -> Job:
    current_app.loader.import_default_modules()
    job = JOBS[name]
    job.prepare(shop)
    if job.stop == "commit":
        race.stop_before_commit()
    else:
        race.stop(job.stop, at="after")
    for beat in ("a", "b"):
        race.actor(beat, current_app.tasks[name])
    return job


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_runs_twice_at_once_has_its_effect_once(race, shop, name):
    job = two_beats(race, shop, name)
    assert race.play("a b a b") == {"a": None, "b": None}
    job.once(shop)


# --- Controls ---------------------------------------------------------------------------------------


def damaged(race: Race, shop: Shop, name: str) -> None:
    job = two_beats(race, shop, name)
    race.play("a b a b")
    with pytest.raises(AssertionError):
        job.once(shop)


def test_control_two_mirrors_without_a_lease_stream_everything_twice(race, shop, monkeypatch):
    no_lease = stream._TAKE.replace("WHERE writer.leased_until <= clock_timestamp()", "")
    assert no_lease != stream._TAKE
    monkeypatch.setattr(stream, "_TAKE", no_lease)
    damaged(race, shop, "durability.mirror")


def test_without_the_orders_lock_the_lock_on_their_payments_still_holds(race, shop, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_DUE", locks.LOCK_DUE.replace("FOR NO KEY UPDATE SKIP LOCKED", ""))
    race.stop("orders.services.expiry.lock_due", at="after")
    job = two_beats(race, shop, "orders.expire_due")
    race.play("a b a b a b")
    job.once(shop)


def test_control_without_both_locks_the_second_expiry_fails_on_what_the_first_has_cancelled(race, shop, monkeypatch):
    """Both cancel the same attempt: only its state, asked for in the UPDATE, keeps the stock from coming back twice."""
    monkeypatch.setattr(locks, "LOCK_DUE", locks.LOCK_DUE.replace("FOR NO KEY UPDATE SKIP LOCKED", ""))
    unlocked = attempts._LOCK_PAYABLE.replace("FOR NO KEY UPDATE OF payment", "")
    monkeypatch.setattr(attempts, "_LOCK_PAYABLE", unlocked)
    told: list[str] = []
    monkeypatch.setattr(expiry.log, "exception", lambda text, *_: told.append(text))
    race.stop("payments.services.attempts.transition_many")  # has read what may be cancelled
    two_beats(race, shop, "orders.expire_due")
    race.play("a b a b a b")
    assert told == ["expiry: a batch of %s orders failed; each is tried by itself"]


def test_control_a_recheck_that_locks_nothing_asks_twice(race, shop, monkeypatch):
    monkeypatch.setattr(QuerySet, "select_for_update", lambda rows, **_: rows)
    race.stop("payments.services.rereads.in_seconds", at="after")  # has read what is due
    damaged(race, shop, "payments.recheck")


def test_control_without_one_run_a_day_two_work_on_it(race, shop, unguarded):
    unguarded.unique("reconciliation_reconciliationrun", "run_one_at_a_time_per_date")
    two_beats(race, shop, "reconciliation.nightly")
    race.turn("a")
    race.turn("b")
    assert ReconciliationRun.objects.filter(state="running").count() == 2
