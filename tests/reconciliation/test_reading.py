"""Reading the provider's books: what is cut short is gone on with; nothing is read twice, nothing is missed."""

import hashlib
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
import stripe as sdk

from foundation.database import database_now
from payments import gateway
from payments.errors import ProviderUnavailable
from payments.sandbox import balance
from payments.types import BalanceTransaction
from reconciliation import services, vouchers
from reconciliation.models import ProviderRead, ProviderTransaction, RawRow
from reconciliation.services import importing, read_balance
from tests.campaigns.drill.copies import provider


@pytest.fixture
def small_batches(settings):
    settings.RECONCILE_IMPORT_BATCH = 2
    settings.RECONCILE_PAGES_PER_S = 1000


class CutShort(Exception):
    pass


def cut_short_after(rows: int):
    """A progress that ends the process, as it were, once so many rows are stored."""

    def progress(count: int) -> None:
        if count >= rows:
            raise CutShort

    return progress


def read_on(books, monkeypatch) -> list[str]:
    """Read a second time; the rows that the provider was asked for."""
    asked = []
    listing = gateway.list_balance_transactions

    def counted(**filters):
        for row in listing(**filters):
            asked.append(row.id)
            yield row

    monkeypatch.setattr(gateway, "list_balance_transactions", counted)
    importing.import_day(books.day, progress=lambda rows: None)
    return asked


def ids() -> set[str]:
    return set(ProviderTransaction.objects.filter(withdrawn_at=None).values_list("id", flat=True))


def test_a_reading_that_was_cut_short_is_gone_on_with(books, small_batches, monkeypatch):
    books.sell(7)
    with pytest.raises(CutShort):
        importing.import_day(books.day, progress=cut_short_after(4))
    before = ids()
    assert len(before) == 4
    asked = read_on(books, monkeypatch)
    assert len(ids()) == 7
    assert ids() - before == set(asked[1:])  # one row, to see that nothing newer is there, and the rest
    reading = ProviderRead.objects.get()
    assert (reading.rows, reading.resumed) == (7, 1)
    assert reading.finished_at


def test_what_was_booked_since_it_was_cut_short_is_read_as_well(books, small_batches, monkeypatch):
    books.sell(5)
    with pytest.raises(CutShort):
        importing.import_day(books.day, progress=cut_short_after(4))
    books.sell(3)
    read_on(books, monkeypatch)
    assert len(ids()) == 8


def test_nothing_is_withdrawn_before_all_was_read(books, small_batches):
    books.sell(5)
    importing.import_day(books.day, progress=lambda rows: None)
    (gone,) = books.plant("missing_in_stripe")
    with pytest.raises(CutShort):
        importing.import_day(books.day, progress=cut_short_after(2))
    assert len(ids()) == 5
    importing.import_day(books.day, progress=lambda rows: None)
    assert len(ids()) == 4
    assert ProviderTransaction.objects.get(source=gone).withdrawn_at


def test_rows_of_another_source_are_no_business_of_the_providers(books):
    """A file in our own layout, with ids of its own; one that bears the provider's ids is held to what the provider lists."""
    books.sell(1)
    midday = f"{books.day}T12:00:00Z"
    rows = [f"{id},{midday},usd,1500,74,1426,charge," for id in ("r-1", "txn_nowhere")]
    head = "transaction,created_at,currency,gross_minor,fee_minor,net_minor,category,source"
    file = io.BytesIO("\n".join([head, *rows]).encode())
    assert not services.import_statement(file=file, name="own.csv", by="test").problems
    importing.import_day(books.day, progress=lambda rows: None)
    assert "r-1" in ids()
    assert "txn_nowhere" not in ids()


def test_a_row_to_go_on_behind_that_is_gone_begins_the_reading_anew(books, small_batches, monkeypatch):
    books.sell(5)
    with pytest.raises(CutShort):
        importing.import_day(books.day, progress=cut_short_after(4))
    ProviderRead.objects.update(reached="txn_nowhere")
    importing.import_day(books.day, progress=lambda rows: None)
    assert len(ids()) == 5


def test_a_reading_of_long_ago_is_begun_anew(books, small_batches, monkeypatch, settings):
    books.sell(5)
    with pytest.raises(CutShort):
        importing.import_day(books.day, progress=cut_short_after(4))
    ProviderRead.objects.update(began_at=database_now() - timedelta(seconds=settings.RECONCILE_READ_RESUMED_FOR_S + 1))
    assert len(read_on(books, monkeypatch)) == 5


def test_rows_as_they_were_read_are_kept_by_their_hash_each_once(books):
    books.sell(2)
    for _ in range(2):
        importing.import_day(books.day, progress=lambda rows: None)
    assert RawRow.objects.count() == 2
    books.plant("amount_mismatch")
    importing.import_day(books.day, progress=lambda rows: None)
    assert RawRow.objects.count() == 3  # what it said before stays
    hashes = {bytes(row.sha256) for row in RawRow.objects.all()}
    assert {bytes(row.sha256) for row in ProviderTransaction.objects.all()} < hashes


def test_what_stripe_said_of_a_row_is_kept_whole(books, settings):
    """All of its fields, of which we read some; of the charge behind it nothing that we do not read: it names who paid."""
    books.sell(1)
    importing.import_day(books.day, progress=lambda rows: None)
    row = ProviderTransaction.objects.get()
    body = RawRow.objects.get(pk=row.sha256).body
    assert hashlib.sha256(body.encode()).digest() == bytes(row.sha256)
    told = json.loads(body)
    client = sdk.StripeClient(settings.STRIPE_API_KEY, base_addresses={"api": books.sandbox.url})
    said = client.v1.balance_transactions.retrieve(row.pk)
    assert told == {**said.to_dict(), "source": told["source"]}
    assert told["fee_details"][0]["description"] == "Stripe processing fees"
    assert {"description", "exchange_rate"} < told.keys()
    assert told["source"].keys() == {"id", "object", "payment_intent", "metadata", "status"}
    assert list(told) == sorted(told)
    assert vouchers.told_of([row])[row.pk] == told


def test_the_same_answer_is_kept_once_whatever_became_of_the_charge(books):
    order = books.sell(1)[0]
    importing.import_day(books.day, progress=lambda rows: None)
    before = set(RawRow.objects.values_list("body", flat=True))
    books.refund(order, 500)  # the charge says now that it was refunded in part; its booking says what it said
    importing.import_day(books.day, progress=lambda rows: None)
    after = set(RawRow.objects.values_list("body", flat=True))
    assert before < after
    assert {json.loads(body)["type"] for body in after - before} == {"refund"}


def test_what_is_no_row_of_the_providers_own_words_is_kept_as_it_was_known(books):
    row = theirs_row()
    importing.upsert([row])
    (kept,) = RawRow.objects.all()
    assert json.loads(kept.body)["amount_minor"] == row.amount_minor
    assert "raw" not in json.loads(kept.body)
    assert row == replace(row, raw='{"id": "txn_1"}')  # whoever told it, it is the same booking


def theirs_row() -> BalanceTransaction:
    moment = datetime(2026, 1, 10, tzinfo=UTC)
    return BalanceTransaction(
        id="txn_1",
        type="charge",
        reporting_category="charge",
        source="ch_1",
        amount_minor=1500,
        fee_minor=74,
        net_minor=1426,
        currency="usd",
        status="available",
        created_at=moment,
        available_at=moment,
        payment_intent="pi_1",
        charge="ch_1",
        metadata={},
        source_status="succeeded",
    )


@pytest.fixture
def slow_provider(settings, monkeypatch, valkey):
    """It allows twenty rows a second, as many at once."""
    settings.RECONCILE_IMPORT_BATCH = 1
    settings.RECONCILE_PAGES_PER_S = 20
    monkeypatch.setattr(importing, "_PAGE_ROWS", 1)
    return settings.RECONCILE_PAGES_PER_S


def test_all_readings_together_are_no_faster_than_the_provider_allows(books, slow_provider, monkeypatch):
    books.sell(12)
    began = monotonic()
    for _ in range(3):
        importing.import_day(books.day, progress=lambda rows: None)
    assert monotonic() - began > (3 * 12 - slow_provider) / slow_provider


def test_without_redis_each_reading_keeps_to_the_limit_by_itself(books, slow_provider, monkeypatch):
    monkeypatch.setattr("foundation.throttle.take", lambda *_, **__: None)
    slept: list[float] = []
    monkeypatch.setattr("reconciliation.services.importing.sleep", slept.append)
    books.sell(3)
    importing.import_day(books.day, progress=lambda rows: None)
    assert slept == [1 / slow_provider] * 3


def test_a_day_that_is_not_over_was_read_up_to_now(books):
    today = database_now()
    importing.import_day(today.date(), progress=lambda rows: None)
    assert ProviderRead.objects.get().until <= database_now()


def test_a_provider_that_goes_away_leaves_what_was_read(books, small_batches, monkeypatch):
    monkeypatch.setattr("payments.providers.stripe.time.sleep", lambda seconds: None)
    books.sell(3)
    books.sandbox.control("POST", "faults", {"match": "GET /v1/balance_transactions", "kind": "rate_limit", "times": 4})
    with pytest.raises(ProviderUnavailable):
        importing.import_day(books.day, progress=lambda rows: None)
    importing.import_day(books.day, progress=lambda rows: None)
    assert len(ids()) == 3


A_PAGE = 100  # of the provider's


def booked_in_one_second(books, count: int) -> list[str]:
    """So many bookings of the newest second, in the provider's own books."""
    books.sandbox.stop()
    with provider(books.sandbox) as account, account.transaction():
        one = balance.record(account, kind="adjustment", source="", amount=100, currency="usd")
        rows = [one, *({**one, "id": f"{one['id']}{number}"} for number in range(1, count))]
        for row in rows[1:]:
            account.store.insert(row)
    books.sandbox.restart()
    return sorted(row["id"] for row in rows)


def test_a_balance_names_all_bookings_of_its_last_second_however_many_there_are(books):
    booked = booked_in_one_second(books, A_PAGE + 30)
    reading = read_balance()
    assert reading.balances["usd"] == {"available": 100 * len(booked), "pending": 0}
    assert (reading.edge, reading.unsure) == (booked, [])


def test_a_balance_names_all_bookings_made_while_it_was_asked_however_many_there_are(books, monkeypatch):
    first = booked_in_one_second(books, 1)
    retrieve, made = gateway.retrieve_balance, []

    def busy():
        made.append(booked_in_one_second(books, A_PAGE + 30))
        return retrieve()

    monkeypatch.setattr(gateway, "retrieve_balance", busy)
    reading = read_balance()
    assert reading.unsure == made[-1]
    assert reading.balances["usd"]["available"] == 100 * len([*first, *(row for rows in made for row in rows)])
