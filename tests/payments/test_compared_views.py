"""The views that reconciliation reads say what the tables say."""

from typing import Any

import pytest
from django.db import connection

from foundation.ids import public_id, uuid7
from payments import ledger, services
from payments.models import JournalEntry

pytestmark = pytest.mark.django_db


def ask(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def test_numbers_are_made_and_read_in_sql_as_in_python():
    for _ in range(50):
        value = uuid7()
        assert ask("SELECT payments_number('pay', %s), payments_id_of(%s)", value, public_id("ref", value)) == [
            (public_id("pay", value), value)
        ]


def test_a_booking_counts_what_it_and_its_corrections_moved_on_the_clearing_account():
    services.post_learnt_fees([], by="test")
    ledger.post(
        key="fee:txn_1", kind="fee", debit=ledger.fees("usd"), credit=ledger.clearing("usd"), amount_minor=74, by="test"
    )
    services.correct_fee(transaction_id="txn_1", amount_minor=7, cause="dis_1:1", by="clara", why="a new contract")
    services.correct_fee(transaction_id="txn_1", amount_minor=7, cause="dis_1:1", by="clara", why="pressed twice")
    assert ask("SELECT kind, clearing_minor FROM payments_booking WHERE key = 'fee:txn_1'") == [("fee", -81)]
    assert JournalEntry.objects.count() == 2
    services.post_booking(transaction_id="txn_2", currency="usd", amount_minor=-500, by="clara", why="a reserve")
    services.post_opening_balance(currency="usd", amount_minor=1000, by="ann", why="go-live")
    posted = ask("SELECT key, amount_minor FROM payments_posted WHERE account_kind = 'provider_clearing' ORDER BY key")
    assert posted == [
        ("booking:txn_2", -500),
        ("fee:txn_1", -74),
        ("fee_correction:txn_1:dis_1:1", -7),
        ("opening:usd", 1000),
    ]


def test_corrections_of_corrections_count_as_far_as_they_go_each_in_its_currency():
    clearing, fees = ledger.clearing("usd"), ledger.fees("usd")
    ledger.post(key="fee:txn_1", kind="fee", debit=fees, credit=clearing, amount_minor=74, by="test")
    last = JournalEntry.objects.get()
    for number, amount in enumerate((7, -7, 5)):
        ledger.post(
            key=f"correction:{number}",
            kind="correction",
            debit=fees,
            credit=clearing,
            amount_minor=amount,
            by="clara",
            corrects=last.pk,
        )
        last = JournalEntry.objects.get(key=f"correction:{number}")
    services.correct_fee(transaction_id="txn_1", currency="eur", amount_minor=9, cause="1", by="clara", why="a slip")
    assert ask("SELECT clearing_minor FROM payments_booking WHERE key = 'fee:txn_1'") == [(-79,)]
    lines = "SELECT currency, amount_minor FROM payments_clearing_correction WHERE key = %s ORDER BY 1, 2"
    assert ask(lines, "fee:txn_1") == [("eur", -9), ("usd", -7), ("usd", -5), ("usd", 7)]
    assert ask(lines, "correction:0") == [("usd", -5), ("usd", 7)]
