"""Fifty refunds of one payment at once: what is open and paid never exceeds what was captured, and PostgreSQL says so."""

from threading import Barrier, Thread
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import Sum

from payments import services
from payments.errors import RefundExceedsCaptured
from payments.models import Payment, Refund
from tests.payments.books import assert_books_agree
from tests.shop import settle

CROWD = 50
AMOUNT = 100  # of 1500: fifteen fit
PATIENCE_S = 60


@pytest.fixture
def payment(shop) -> Payment:
    """A captured payment of 15.00."""
    shop.bought()
    return Payment.objects.get()


def refund_all_at_once(payment: Payment) -> list[Any]:
    """What each of fifty threads, each with a connection of its own, returned or raised."""
    ready = Barrier(CROWD, timeout=PATIENCE_S)
    results: list[Any] = []

    def refund() -> None:
        try:
            connection.ensure_connection()
            ready.wait()
            with transaction.atomic():
                number = services.request_refund(
                    payment=payment.number, amount_minor=AMOUNT, reason="x", requested_by="crowd", policy=None
                )
            results.append(number)
        except Exception as error:  # noqa: BLE001  told to the test
            results.append(error)
        finally:
            connection.close()

    threads = [Thread(target=refund, daemon=True) for _ in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(results) == CROWD
    return results


def accepted(results: list[Any]) -> int:
    return sum(isinstance(result, str) for result in results)


@pytest.mark.guard(10)
def test_of_fifty_refunds_at_once_only_those_that_fit_are_accepted(payment):
    results = refund_all_at_once(payment)
    assert accepted(results) == 15
    assert sum(isinstance(result, RefundExceedsCaptured) for result in results) == 35
    assert Refund.objects.aggregate(total=Sum("amount_minor"))["total"] == 1500
    assert_books_agree(payment)
    settle()
    assert Refund.objects.filter(status="succeeded").count() == 15
    assert_books_agree(payment)


def read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the lock away: all fifty read what is left before one of them writes."""
    seen = Barrier(CROWD, timeout=PATIENCE_S)

    def unlocked(payment_id) -> Payment:
        row = Payment.objects.get(pk=payment_id)
        seen.wait()
        return row

    monkeypatch.setattr("payments.services.refunds.lock_payment", unlocked)


@pytest.mark.guard(10)
def test_without_the_lock_postgresql_alone_keeps_the_sum(payment, monkeypatch):
    read_together(monkeypatch)
    assert accepted(refund_all_at_once(payment)) == 15
    assert_books_agree(payment)


def test_control_without_lock_and_constraint_more_is_given_back_than_was_taken(payment, monkeypatch, unguarded):
    read_together(monkeypatch)
    unguarded.constraint("payments_payment", "payment_refunds_within_captured")
    unguarded.constraint("payments_payment", "payment_refunds_within_collected")
    assert accepted(refund_all_at_once(payment)) == CROWD
    payment.refresh_from_db()
    assert payment.refunds_committed_minor == CROWD * AMOUNT > payment.captured_minor
