"""Two who write the same rows of the provider's, each in an order of its own: PostgreSQL rolls one back, and it is done anew."""

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models.functions import Now

from payments import selectors as payments
from payments.types import BalanceTransaction
from reconciliation.models import ProviderRead, ProviderTransaction
from reconciliation.services import importing, statements
from tests.races import PATIENCE_S, Race
from tests.reconciliation.ledgers import DAY, NOON, row_of_theirs, theirs
from tests.reconciliation.test_statement_files import CHARGE, REFUND, take_in

pytestmark = pytest.mark.django_db(transaction=True)

FIRST, SECOND = "txn_1", "txn_2"


def row(id: str) -> BalanceTransaction:
    return row_of_theirs(id.replace("txn", "ch"), id=id)


def pause() -> None:
    """A point to stop at."""


def the_other_way_round(write: Callable[[str], object]) -> Callable[[], str]:
    """A transaction that writes the second row, and then the first: it waits for the first longer than who it meets."""

    def work() -> str:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL deadlock_timeout = '1min'")
            write(SECOND)
            pause()
            write(FIRST)
        return "through"

    return work


def cross(race: Race, work: Callable[[], Any], write: Callable[[str], object]) -> Any:
    """What `work` returned, or raised, where the other transaction met it half-way."""
    race.stop(f"{__name__}.pause")
    race.actor("other", the_other_way_round(write))
    race.actor("work", work)
    told = race.play("other work other")
    assert told["other"] == "through"
    return told["work"]


def upsert() -> int:
    importing.upsert([row(SECOND), row(FIRST)])
    return ProviderTransaction.objects.count()


def read() -> int:
    reading = ProviderRead.objects.create(since=DAY, until=DAY + timedelta(days=1))
    reading.refresh_from_db()
    return importing._read(reading, lambda rows: None)


def insert(id: str) -> None:
    importing._write([row(id)])


def withdraw(id: str) -> None:
    ProviderTransaction.objects.filter(pk=id).update(withdrawn_at=Now())


def theirs_of_the_file(id: str) -> None:
    """What the API tells of a row of the file."""
    source, amount, at = {FIRST: ("ch_1", 1500, NOON), SECOND: ("re_1", -500, NOON + timedelta(minutes=30))}[id]
    theirs(source, amount, id=id, at=at)


@pytest.fixture
def two_listed(monkeypatch):
    rows = [row(SECOND), row(FIRST)]
    monkeypatch.setattr(payments, "read_balance_transactions", lambda **window: iter(rows))
    monkeypatch.setattr(payments, "read_balance_transactions_of", lambda source: rows)


@pytest.fixture
def two_gone(monkeypatch):
    """Two rows of one object that the provider does not list any more; whoever withdraws them takes the first one first."""
    for id in (FIRST, SECOND):
        theirs("ch_1", id=id)
    monkeypatch.setattr(payments, "read_balance_transactions", lambda **window: iter(()))
    monkeypatch.setattr(payments, "read_balance_transactions_of", lambda source: [])


@pytest.mark.parametrize("work", [upsert, read, lambda: importing.import_sources(["ch_1"])])
def test_rows_that_the_api_tells_are_written_anew_after_a_deadlock(race, two_listed, work):
    assert cross(race, work, insert) == 2
    assert ProviderTransaction.objects.filter(withdrawn_at=None).count() == 2


@pytest.mark.parametrize("work", [read, lambda: importing.import_sources(["ch_1"])])
def test_rows_that_are_gone_are_withdrawn_anew_after_a_deadlock(race, two_gone, work):
    assert cross(race, work, withdraw) == 0
    assert not ProviderTransaction.objects.filter(withdrawn_at=None).exists()


def test_a_statement_file_is_taken_in_anew_after_a_deadlock(race):
    report = cross(race, lambda: take_in(CHARGE, REFUND), theirs_of_the_file)
    assert (report.problems, report.added, report.known) == ((), 0, 2)


@pytest.mark.parametrize("work", [upsert, read])
def test_control_what_is_not_done_anew_is_lost(race, two_listed, work, monkeypatch):
    monkeypatch.setattr("foundation.database._TRIES", 1)
    assert isinstance(cross(race, work, insert), DatabaseError)


def test_control_a_file_that_is_not_taken_in_anew_is_lost(race, monkeypatch):
    monkeypatch.setattr(statements, "_TRIES", 1)
    assert isinstance(cross(race, lambda: take_in(CHARGE, REFUND), theirs_of_the_file), DatabaseError)


def second_try() -> None:
    """A point to stop at."""


def test_a_row_that_somebody_holds_too_long_is_waited_for_once_more(race, monkeypatch):
    """A statement file holds its rows until all of it is in."""
    write, tries = importing._write, []

    def counted(rows: Any) -> None:
        tries.append(rows)
        if len(tries) > 1:
            second_try()
        write(rows)

    def impatient() -> int:
        monkeypatch.setattr(importing, "_write", counted)
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '100ms'")
        return upsert()

    def hold() -> str:
        with transaction.atomic():
            write([row(FIRST)])
            pause()
        return "through"

    race.stop(f"{__name__}.pause")
    race.stop(f"{__name__}.second_try")
    race.actor("other", hold)
    race.actor("work", impatient)
    race.turn("other")
    end = monotonic() + PATIENCE_S
    while race.turn("work") == "waiting":
        assert monotonic() < end
    assert race.finish() == {"other": "through", "work": 2}
