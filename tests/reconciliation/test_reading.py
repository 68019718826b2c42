"""Reading the provider's books: what is cut short is gone on with; nothing is read twice, nothing is missed."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic

import pytest
import requests
import stripe as sdk

from foundation.database import database_now
from payments import gateway
from payments.errors import ProviderUnavailable
from payments.sandbox import balance
from reconciliation import services, vouchers
from reconciliation.models import Discrepancy, ProviderRead, ProviderTransaction, RawRow, ReconciliationRun
from reconciliation.services import importing, read_balance
from tests.campaigns.drill.copies import provider
from tests.reconciliation.ledgers import row_of_theirs
from tests.reconciliation.test_runs import ROOT, _test_database_url


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
    row = row_of_theirs("ch_1", id="txn_1")
    importing.upsert([row])
    (kept,) = RawRow.objects.all()
    assert json.loads(kept.body)["amount_minor"] == row.amount_minor
    assert "raw" not in json.loads(kept.body)
    assert row == replace(row, raw='{"id": "txn_1"}')  # whoever told it, it is the same booking


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


def bookings(books, count: int, *, apart_s: int = 0) -> list[str]:
    """So many bookings of the newest second, or so many seconds apart until then, in the provider's own books."""
    books.sandbox.stop()
    with provider(books.sandbox) as account, account.transaction():
        one = balance.record(account, kind="adjustment", source="", amount=100, currency="usd")
        rows = [
            {**one, "id": f"{one['id']}{number or ''}", "created": one["created"] - number * apart_s}
            for number in range(count)
        ]
        for row in rows[1:]:
            account.store.insert(row)
    books.sandbox.restart()
    return sorted(row["id"] for row in rows)


def test_a_balance_names_all_bookings_of_its_last_second_however_many_there_are(books):
    booked = bookings(books, A_PAGE + 30)
    reading = read_balance()
    assert reading.balances["usd"] == {"available": 100 * len(booked), "pending": 0}
    assert (reading.edge, reading.unsure) == (booked, [])


def test_a_balance_names_all_bookings_made_while_it_was_asked_however_many_there_are(books, monkeypatch):
    first = bookings(books, 1)
    retrieve, made = gateway.retrieve_balance, []

    def busy():
        made.append(bookings(books, A_PAGE + 30))
        return retrieve()

    monkeypatch.setattr(gateway, "retrieve_balance", busy)
    reading = read_balance()
    assert reading.unsure == made[-1]
    assert reading.balances["usd"]["available"] == 100 * len([*first, *(row for rows in made for row in rows)])


# --- Killed -------------------------------------------------------------------------------------------


class Counted:
    """Stands between a process and the provider: counts the rows of a day's reading that it hands out, and answers no more once it
    has handed out so many pages of them."""

    def __init__(self, url: str) -> None:
        self.rows: list[int] = []  # page by page
        self.last_page: int | None = None
        self.stuck = threading.Event()
        self.over = threading.Event()
        counted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                # A balance is read beside its newest rows, whenever they were booked: that is no reading of a day.
                lists = self.path.startswith("/v1/balance_transactions?") and "created" in self.path
                if lists and len(counted.rows) == counted.last_page:
                    counted.stuck.set()
                    counted.over.wait()
                    return
                headers = {"Authorization": self.headers["Authorization"]}
                answer = requests.get(f"{url}{self.path}", headers=headers, timeout=10)
                if lists:
                    counted.rows.append(len(answer.json()["data"]))
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handed_out(self) -> int:
        """How many rows since somebody last asked."""
        count = sum(self.rows)
        self.rows.clear()
        return count


@pytest.fixture
def between(books):
    counted = Counted(books.sandbox.url)
    yield counted
    counted.over.set()
    counted.server.shutdown()
    counted.server.server_close()


def reconciled_by_a_process(books, provider_url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "manage.py", "reconcile", "--date", str(books.day)]
    environment = {**os.environ, "DATABASE_URL": _test_database_url(), "STRIPE_API_BASE": provider_url}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def test_a_process_that_is_killed_between_two_batches_is_followed_by_one_that_goes_on(books, between, settings):
    """1,200 rows in batches of 500: killed after eleven pages of 100, two batches are stored and the third has begun."""
    booked = bookings(books, 12 * A_PAGE, apart_s=1)
    between.last_page = 11
    process = reconciled_by_a_process(books, between.url)
    assert between.stuck.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert settings.RECONCILE_IMPORT_BATCH == 500
    assert (ProviderRead.objects.get().rows, len(ids())) == (1000, 1000)
    first = between.handed_out()
    between.last_page = None
    ReconciliationRun.objects.update(lease_until=database_now())
    assert reconciled_by_a_process(books, between.url).wait(60) == 1  # what it found is open
    second = between.handed_out()
    assert (first, second) == (1100, 100 + 200)  # a page, to see that nothing newer is there, and the rest
    assert first + second < 2 * len(booked)
    reading = ProviderRead.objects.get()
    assert (reading.rows, reading.resumed, ids()) == (1200, 1, set(booked))
    assert list(ReconciliationRun.objects.order_by("id").values_list("state", flat=True)) == ["failed", "completed"]
    assert Discrepancy.objects.count() == len(booked)
