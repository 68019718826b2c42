"""Statement files: taken in as a whole or not at all, each once, each bad line told with its reason."""

import hashlib
import io
import json
import random
import tracemalloc
import zlib
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from foundation.database import database_now
from foundation.errors import InvalidInput
from reconciliation import books, imports, pages, services, vouchers
from reconciliation.errors import StatementNotKept
from reconciliation.imports import Expected
from reconciliation.models import DayTotal, Discrepancy, ProviderRead, ProviderTransaction, RawPage, StatementFile
from reconciliation.types import Kind, StatementReport
from tests.reconciliation.ledgers import DAY, NOON, booked, our_refund, ours, theirs
from tests.reconciliation.test_runs import reconcile

pytestmark = pytest.mark.django_db(transaction=True)

STRIPE = (
    "balance_transaction_id,created_utc,created,currency,gross,fee,net,reporting_category,source_id,description,"
    "charge_id,payment_intent_id,payment_metadata[order],payment_metadata[payment],payment_metadata[instance]"
)
CHARGE = (
    "txn_1,2026-01-10 12:00:00,2026-01-10 13:00:00,usd,15.00,0.74,14.26,charge,ch_1,"
    '"Two books, ""The Night""\nand a pen",ch_1,pi_1,ord_1,pay_1,everycent'
)
REFUND = "txn_2,2026-01-10 12:30:00,,usd,-5.00,0.00,-5.00,refund,re_1,,ch_1,pi_1,,,"
YEN = "txn_3,2026-01-10 23:59:59,,JPY,500,20,480,charge,ch_2,,ch_2,pi_2,,,"
OURS = "transaction,created_at,currency,gross_minor,fee_minor,net_minor,category,source"
OUR_ROW = "txn_1,2026-01-10T13:00:00+01:00,usd,1500,74,1426,charge,ch_1"


def take_in(*lines: str | bytes, header: str = STRIPE, end: str = "\n", **expected) -> StatementReport:
    content = b"".join((line if isinstance(line, bytes) else line.encode()) + end.encode() for line in (header, *lines))
    return services.import_statement(
        file=io.BytesIO(content), name="june.csv", by="test", expected=Expected(**expected)
    )


def refused(*lines: str | bytes, **options) -> list[tuple[int, str]]:
    """What is told; nothing may have been taken in."""
    report = take_in(*lines, **options)
    assert not ProviderTransaction.objects.exists()
    assert not RawPage.objects.exists()
    file = StatementFile.objects.get()
    assert (file.refused, file.added, file.by, file.whose) == (True, 0, "test", "provider")
    assert file.problems == [[problem.line, problem.reason] for problem in report.problems]
    assert not DayTotal.objects.exists()
    return [(problem.line, problem.reason) for problem in report.problems]


# --- What is taken in -------------------------------------------------------------------------------


def test_stripes_itemised_activity_is_taken_in_by_the_names_of_its_columns():
    report = take_in(CHARGE, REFUND, YEN)
    assert (report.layout, report.rows, report.added, report.known) == ("stripe", 3, 3, 0)
    assert (report.first_day, report.last_day, report.problems) == (date(2026, 1, 10), date(2026, 1, 10), ())
    charge, refund, yen = ProviderTransaction.objects.order_by("id")
    assert (charge.amount_minor, charge.fee_minor, charge.net_minor, charge.currency) == (1500, 74, 1426, "usd")
    assert (charge.source, charge.charge, charge.payment_intent) == ("ch_1", "ch_1", "pi_1")
    assert (charge.order_reference, charge.payment_number, charge.instance) == ("ord_1", "pay_1", "everycent")
    assert charge.created_at.isoformat() == "2026-01-10T12:00:00+00:00"  # created_utc, not created
    assert (refund.amount_minor, refund.source, refund.charge) == (-500, "re_1", "ch_1")
    assert (yen.amount_minor, yen.fee_minor, yen.net_minor, yen.currency) == (500, 20, 480, "jpy")


def test_our_own_layout_counts_minor_units_and_says_its_offset():
    report = take_in(OUR_ROW, header=OURS)
    assert report.layout == "everycent"
    row = ProviderTransaction.objects.get()
    assert (row.amount_minor, row.fee_minor, row.net_minor, row.charge) == (1500, 74, 1426, "ch_1")
    assert row.created_at.isoformat() == "2026-01-10T12:00:00+00:00"


def test_a_report_in_another_time_zone_is_brought_to_utc():
    """Half past midnight of the 11th in Berlin is the 10th."""
    header = "balance_transaction_id,created,currency,gross,fee,net,reporting_category,source_id"
    row = "txn_1,2026-01-11 00:30:00,usd,15.00,0.74,14.26,charge,ch_1"
    assert refused(row, header=header) == [(1, "there is no created_utc: say in which time zone the column created is")]
    report = take_in(row, header=header, time_zone="Europe/Berlin")
    assert report.first_day == date(2026, 1, 10)
    assert ProviderTransaction.objects.get().created_at.isoformat() == "2026-01-10T23:30:00+00:00"


@pytest.mark.parametrize("another", ["note %", "kept", "s", "read", "id"])
def test_columns_may_stand_in_any_order_and_others_beside_them(another):
    header = f"net,gross,fee,{another},source_id,reporting_category,currency,created_utc,balance_transaction_id"
    take_in("14.26,15,0.74,x,ch_1,charge,usd,2026-01-10 12:00:00,txn_1", header=header)
    assert ProviderTransaction.objects.get().net_minor == 1426


def test_what_editors_do_to_a_file_does_not_matter():
    report = take_in(CHARGE.replace("\n", " "), REFUND, header="\ufeff" + STRIPE, end="\r\n")
    assert (report.added, report.problems) == (2, ())


def test_rows_are_kept_as_they_came_in_pages_by_their_hash():
    take_in(CHARGE, REFUND, end="\r\n")
    row, page = ProviderTransaction.objects.get(pk="txn_2"), RawPage.objects.get()
    text = zlib.decompress(page.body)
    assert text == "".join(f"{line}\r\n" for line in (STRIPE, CHARGE, REFUND)).encode()
    assert bytes(row.sha256) == bytes(page.sha256) == hashlib.sha256(text).digest()
    assert (row.page_row, page.rows) == (2, 2)
    told = vouchers.told_of([row])["txn_2"]
    assert told.keys() == set(STRIPE.split(","))
    assert (told["balance_transaction_id"], told["gross"], told["description"]) == ("txn_2", "-5.00", "")


def test_each_row_of_a_file_of_many_pages_names_its_own(monkeypatch):
    """However cells are quoted: PostgreSQL, which reads the file, and the page that is kept of it say the same of each row."""
    monkeypatch.setattr(pages, "_ROWS", 3)
    monkeypatch.setattr(imports, "_PAGES_AT_ONCE", 2)
    said = [
        "plain",
        '"a\nb"',
        '"he said ""no"""',
        '"\n""\n"',
        "",
        '"x,y"',
        '"\r\n."',
        '5" x,\n9" y',
        'a"b,c"d"e\n"f',
        'g""h',
        '"i"j"k,l"',
    ]
    lot = random.Random(1)
    for _ in range(60):
        said.append(
            "".join(lot.choice(["ab", " ", '"x,\n"', '""', '"y"""', '"\n"', "é"]) for _ in range(lot.randint(1, 5)))
        )
    lines = [
        f"txn_{n:03},2026-01-10 12:00:00,,usd,15.00,0.74,14.26,charge,ch_{n},,ch_{n},pi_{n},.{cell}.,,"
        for n, cell in enumerate(said)
    ]
    assert take_in(*lines).problems == ()
    assert sorted(RawPage.objects.values_list("rows", flat=True)) == [2, *[3] * 23]
    rows = ProviderTransaction.objects.all()
    told = vouchers.told_of(rows)
    assert {pk: (one["balance_transaction_id"], one["payment_metadata[order]"]) for pk, one in told.items()} == {
        row.pk: (row.pk, row.order_reference) for row in rows
    }
    assert len(told) == len(said)


def test_what_has_no_voucher_is_left_out():
    """Of rows that were read before vouchers were kept."""
    take_in(CHARGE, REFUND)
    ProviderTransaction.objects.filter(pk="txn_1").update(sha256=bytes(32))
    assert list(vouchers.told_of(ProviderTransaction.objects.all())) == ["txn_2"]


def test_what_the_api_tells_of_a_files_row_takes_its_place_as_the_voucher():
    take_in(CHARGE)
    theirs("ch_1", 1500, id="txn_1")
    row = ProviderTransaction.objects.get()
    assert (row.page_row, vouchers.told_of([row])["txn_1"]["status"]) == (None, "available")


@pytest.mark.parametrize(
    "endless",
    [
        CHARGE.replace("Two books", "Two books" * 120_000) + '"',
        CHARGE.replace("Two books", "Two books" * 120_000),
        "x" * 3_000_000,
        ",".join(["y" * 100_000] * 15),
    ],
    ids=["open quote", "long cell", "no columns", "long cells"],
)
def test_a_row_that_is_too_long_is_told_by_its_line_before_it_fills_the_memory(endless):
    ((line, reason),) = refused(*[REFUND] * 3, CHARGE, endless, *[REFUND] * 3)
    assert (line, reason[:40]) == (7, "a row of more than 1048576 bytes: does a")  # the charge takes two lines


def test_a_file_without_line_breaks_takes_no_more_memory_than_a_row():
    file = io.BytesIO((STRIPE + "\n").encode() + b"x" * 40_000_000)
    tracemalloc.start()
    try:
        assert services.import_statement(file=file, name="x", by="test").problem_count == 1
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_the_same_file_twice_changes_nothing():
    take_in(CHARGE, REFUND)
    before = list(ProviderTransaction.objects.order_by("id").values()), list(DayTotal.objects.values())
    report = take_in(CHARGE, REFUND)
    assert (report.replayed, report.rows, report.added, report.known) == (True, 2, 0, 2)
    assert (list(ProviderTransaction.objects.order_by("id").values()), list(DayTotal.objects.values())) == before
    assert StatementFile.objects.count() == 1


@pytest.mark.parametrize(
    "harm",
    [
        "NEW.fee_minor := NEW.fee_minor + 1; NEW.net_minor := NEW.net_minor - 1; RETURN NEW;",  # another amount
        "NEW.source := ''; RETURN NEW;",
        "RETURN CASE WHEN NEW.id = 'txn_1' THEN NEW END;",  # a row is lost
    ],
)
def test_what_was_stored_is_held_against_what_was_staged(harm):
    """By count and hash, before anything is compared with it: whatever stands between both."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE OR REPLACE FUNCTION pg_temp.harm() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {harm} END $$"
        )
        cursor.execute(
            "CREATE TRIGGER harm BEFORE INSERT ON reconciliation_providertransaction"
            " FOR EACH ROW EXECUTE FUNCTION pg_temp.harm()"
        )
    try:
        with pytest.raises(StatementNotKept):
            take_in(CHARGE, REFUND)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER harm ON reconciliation_providertransaction")
    assert not ProviderTransaction.objects.exists()
    assert take_in(CHARGE, REFUND).added == 2


def test_another_file_with_the_same_rows_adds_what_is_new():
    take_in(CHARGE)
    first = ProviderTransaction.objects.values().get()
    report = take_in(CHARGE, REFUND)
    assert (report.rows, report.added, report.known) == (2, 1, 1)
    assert ProviderTransaction.objects.values().get(pk="txn_1") == first


def test_two_files_that_share_a_row_can_be_taken_in_at_once(race):
    """Whoever comes second waits, and then knows the row."""
    race.stop("reconciliation.imports.is_kept", actor="first")
    race.actor("first", lambda: take_in(CHARGE, REFUND))
    race.actor("second", lambda: take_in(REFUND, YEN))
    told = race.play("first second")
    assert [(told[name].added, told[name].known) for name in ("first", "second")] == [(2, 0), (1, 1)]
    assert ProviderTransaction.objects.count() == 3
    assert {bytes(row.sha256) for row in ProviderTransaction.objects.all()} == {
        bytes(page.sha256) for page in RawPage.objects.all()
    }


def test_a_large_file_may_take_as_long_as_a_run_and_little_memory(settings, monkeypatch):
    """Statements of ours end after half a minute elsewhere."""
    seen = []

    def keep():
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('statement_timeout'), current_setting('work_mem')")
            seen.append(cursor.fetchone())
        return real()

    real = imports.keep
    monkeypatch.setattr(imports, "keep", keep)
    settings.RECONCILE_STATEMENT_TIMEOUT_MS = 660_000
    take_in(CHARGE)
    assert seen == [("11min", "4MB")]
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() != ("11min",)  # it ends with the transaction


def test_a_row_that_the_api_told_before_stays_as_the_api_told_it():
    row = theirs("ch_1", 1500, id="txn_1")
    before = ProviderTransaction.objects.values().get()
    assert take_in(CHARGE).known == 1
    assert ProviderTransaction.objects.values().get(pk=row) == before  # its status and sale are more than the file says


def test_a_file_without_rows_is_a_statement_of_nothing():
    report = take_in(first_day=date(2026, 1, 10), last_day=date(2026, 1, 11))
    assert (report.rows, report.first_day) == (0, None)
    assert str(ProviderRead.objects.get()) == "2026-01-10 00:00 to 2026-01-12 00:00"


def test_what_a_file_says_of_known_rows_is_kept_as_a_voucher_too():
    theirs("ch_1", 1500, id="txn_1")
    before = ProviderTransaction.objects.values().get()
    take_in(CHARGE)
    (told,) = pages.rows_of(bytes(RawPage.objects.get().body))
    assert told["description"] == 'Two books, "The Night"\nand a pen'
    assert ProviderTransaction.objects.values().get() == before


def test_a_row_that_a_reading_did_not_bring_any_more_is_there_again_once_a_file_lists_it():
    take_in(CHARGE)
    ProviderTransaction.objects.update(withdrawn_at=NOON)
    report = take_in(CHARGE, REFUND)
    assert (report.added, report.known) == (1, 1)
    assert not ProviderTransaction.objects.exclude(withdrawn_at=None).exists()
    assert DayTotal.objects.get(reporting_category="charge").gross_minor == 1500


def test_a_row_that_names_no_object_agrees_with_what_the_api_tells_of_it():
    theirs("ch_1", 1500, id="txn_1")
    report = take_in(OUR_ROW.replace(",ch_1", ","), OUR_ROW.replace("txn_1", "txn_2"), header=OURS)
    assert (report.problems, report.added, report.known) == ((), 1, 1)
    assert ProviderTransaction.objects.get(id="txn_1").source == "ch_1"


@pytest.mark.parametrize("hour", [0, 1])
def test_an_hour_that_a_zone_has_twice_may_be_either(hour):
    """Berlin, 25 October 2026, 02:30: half past midnight or half past one in UTC."""
    theirs("ch_1", id="txn_1", at=datetime(2026, 10, 25, hour, 30, tzinfo=UTC))
    header = STRIPE.replace("created_utc", "note")
    row = CHARGE.replace("2026-01-10 12:00:00,2026-01-10 13:00:00", ",2026-10-25 02:30:00")
    report = take_in(row, header=header, time_zone="Europe/Berlin")
    assert (report.problems, report.known) == ((), 1)


def test_what_the_api_writes_while_a_file_is_taken_in_is_no_loss(monkeypatch):
    """It changed a row that the file holds, after it was found to be known: here for the first try only."""
    theirs("ch_1", 1500, id="txn_1")
    real = imports.keep
    changed: list[int] = []

    def keep() -> int:
        if not changed:
            changed.append(
                ProviderTransaction.objects.filter(id="txn_1").update(created_at=NOON + timedelta(seconds=9))
            )
        return real()

    monkeypatch.setattr(imports, "keep", keep)
    report = take_in(CHARGE, REFUND)
    assert (report.problems, report.added, report.known) == ((), 1, 1)  # read once more
    assert len(changed) == 1


# --- A file that is all of its days -----------------------------------------------------------------

TENTH: dict[str, Any] = {"first_day": date(2026, 1, 10), "last_day": date(2026, 1, 10)}


def test_a_file_that_is_all_of_its_days_may_not_lack_what_we_read_of_them():
    """One torn off at its end looks whole. Rows of other days, and those that are withdrawn, it need not have."""
    theirs("ch_9", 900, id="txn_9")
    theirs("ch_8", 800, id="txn_8", at=NOON + timedelta(days=1))
    theirs("ch_7", 700, id="txn_7")
    ProviderTransaction.objects.filter(id="txn_7").update(withdrawn_at=NOON)
    report = take_in(CHARGE, **TENTH)
    assert [(one.line, one.reason) for one in report.problems] == [
        (1, "the file lacks txn_9 of 2026-01-10, which we read before: it is not all of its days")
    ]
    assert not ProviderRead.objects.exists()
    assert take_in(CHARGE).added == 1  # without the days it says nothing of others
    nine = CHARGE.replace("txn_1", "txn_9").replace("ch_1", "ch_9").replace("15.00,0.74,14.26", "9.00,0.74,8.26")
    assert take_in(CHARGE, nine, **TENTH).problems == ()
    assert ProviderRead.objects.count() == 1


PAYOUTS = "payout_id,effective_at_utc,effective_at,currency,balance_transaction_id,gross,fee,net,reporting_category,description"
PAYOUT = "po_1,2026-01-10 00:00:00,,usd,txn_7,-14.26,0.00,-14.26,payout,STRIPE PAYOUT"


def test_stripes_activity_holds_no_payouts_and_its_other_report_nothing_else():
    """Either is all of its days but for the other; both together are all."""
    booked("po_1", -1426, "payout")
    assert take_in(CHARGE, **TENTH).problems == ()
    assert books.unread(DAY, DAY + timedelta(days=1), currency="usd") == 1
    ProviderTransaction.objects.filter(source="po_1").delete()
    report = take_in(PAYOUT, header=PAYOUTS, **TENTH)
    assert (report.layout, report.added, report.problems) == ("stripe_payouts", 1, ())
    assert books.unread(DAY, DAY + timedelta(days=1), currency="usd") == 0
    row = ProviderTransaction.objects.get(id="txn_7")
    assert (row.source, row.reporting_category, row.amount_minor) == ("po_1", "payout", -1426)


def test_the_moment_of_a_payout_is_the_apis_where_that_told_it():
    """The report says when it left the balance, the API when it was made."""
    txn = booked("po_1", -1426, "payout")
    before = ProviderTransaction.objects.values().get()
    report = take_in(PAYOUT.replace("txn_7", txn).replace("2026-01-10", "2026-01-12"), header=PAYOUTS)
    assert (report.problems, report.known) == ((), 1)
    assert ProviderTransaction.objects.values().get() == before


def test_a_file_of_one_currency_is_all_of_that_currency():
    euros = CHARGE.replace("txn_1", "txn_2").replace("usd", "eur").replace("ch_1", "ch_2")
    assert take_in(CHARGE, currency="usd", **TENTH).problems == ()
    assert take_in(euros, currency="eur", **TENTH).problems == ()
    take_in(header=PAYOUTS, **TENTH)  # none, in any currency
    until = DAY + timedelta(days=1)
    unread = {currency: books.unread(DAY, until, currency=currency) for currency in ("usd", "eur", "jpy")}
    assert unread == {"usd": 0, "eur": 0, "jpy": 1}


def test_a_file_that_is_in_can_be_said_to_be_all_of_its_days_later():
    take_in(CHARGE, REFUND)
    for _ in range(2):
        report = take_in(CHARGE, REFUND, **TENTH)
        assert (report.replayed, report.rows, report.added) == (True, 2, 0)
        assert str(ProviderRead.objects.get()) == "2026-01-10 00:00 to 2026-01-11 00:00"
    assert StatementFile.objects.count() == 1


def test_a_file_that_is_in_is_held_to_what_is_expected_of_it_later():
    take_in(CHARGE, YEN)
    ninth = date(2026, 1, 9)
    assert take_in(CHARGE, YEN, first_day=ninth, last_day=ninth).problem_count == 2
    assert take_in(CHARGE, YEN, currency="usd").problems[0].reason == "wrong currency: jpy, not usd"
    assert not ProviderRead.objects.exists()
    assert StatementFile.objects.filter(refused=False).count() == 1


@pytest.mark.parametrize(
    ("expected", "param"),
    [
        ({"first_day": date(2026, 1, 10)}, "first_day"),
        ({"last_day": date(2026, 1, 10)}, "first_day"),
        ({"time_zone": "Europe/Berln"}, "time_zone"),
        ({"first_day": date(2026, 1, 10), "last_day": date(2026, 1, 9)}, "last_day"),
        ({"first_day": date(26, 1, 10), "last_day": date(2026, 1, 10)}, "first_day"),
        ({"first_day": date(1999, 12, 31), "last_day": date(2026, 1, 10)}, "first_day"),
        ({"first_day": date(2026, 1, 10), "last_day": date(2100, 1, 1)}, "last_day"),
        ({"first_day": date(2026, 1, 10), "last_day": date.max}, "last_day"),
    ],
)
def test_what_cannot_be_expected_of_a_file_is_told(expected, param):
    with pytest.raises(InvalidInput) as told:
        take_in(CHARGE, **expected)
    assert told.value.param == param
    assert not StatementFile.objects.exists()


def test_of_a_day_that_is_not_over_a_file_is_all_up_to_its_newest_row():
    today = database_now().date()
    days: dict[str, Any] = {"first_day": today - timedelta(days=1), "last_day": today + timedelta(days=8)}
    midnight = datetime.combine(today, time.min, UTC)

    def read_until(moment: datetime, number: int) -> datetime:
        row = f"txn_{number},{moment:%Y-%m-%dT%H:%M:%SZ},usd,1500,74,1426,charge,ch_{number}"
        rows = [f"txn_0,{midnight - timedelta(hours=9):%Y-%m-%dT%H:%M:%SZ},usd,1500,74,1426,charge,ch_0", row]
        assert take_in(*rows, header=OURS, **days).problems == ()
        ProviderTransaction.objects.filter(id=f"txn_{number}").delete()
        read = ProviderRead.objects.latest("id")
        assert read.since == midnight - timedelta(days=1)
        return read.until

    assert read_until(midnight - timedelta(minutes=5), 1) == midnight
    theirs("ch_9", at=midnight + timedelta(minutes=6))  # after the file was made
    assert read_until(midnight + timedelta(minutes=5), 2) == midnight + timedelta(minutes=5, seconds=1)
    ProviderRead.objects.all().delete()
    assert take_in(header=OURS, first_day=today, last_day=today).problem_count == 0
    assert not ProviderRead.objects.exists()


# --- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (REFUND.replace("txn_2", ""), "it has no transaction id"),
        (REFUND.replace("usd", "usx"), "the currency is not known: usx"),
        (REFUND.replace("-5.00,0.00", "5,0.00"), "the net is not the gross less the fee"),
        (REFUND.replace("-5.00,0.00", "-5.00,x"), "the fee is not an amount: x"),
        (REFUND.replace("-5.00,0.00", "1e3,0.00"), "the gross is not an amount: 1e3"),
        (REFUND.replace("-5.00,0.00,-5.00", "-5.0001,0,-5.0001"), "an amount has more decimals than USD counts"),
        (REFUND.replace("usd,-5.00,0.00,-5.00", "jpy,-5.50,0,-5.50"), "an amount has more decimals than JPY counts"),
        (REFUND.replace("-5.00,0.00,-5.00", "-5.000,0.00,-5.000"), "an amount with three decimals: 1.000 may mean a"),
        (REFUND.replace(",refund,", ",,"), "it has no reporting category"),
        (REFUND.replace("2026-01-10 12:30:00", "2026-02-30 12:30:00"), "the moment is not one: 2026-02-30 12:30:00"),
        (REFUND.replace("2026-01-10 12:30:00", "yesterday"), "the moment is not one: yesterday"),
        (REFUND.replace("12:30:00", "24:00:00"), "the moment is not one: 2026-01-10 24:00:00"),
        (REFUND.replace("12:30:00", "12:30:60"), "the moment is not one: 2026-01-10 12:30:60"),
        (REFUND.replace("12:30:00", "12:30:"), "the moment is not one: 2026-01-10 12:30:"),
        (REFUND.replace("2026-01-10 12", "0026-01-10 12"), "the moment is not one: 0026-01-10 12:30:00"),
        (REFUND.replace("re_1", '"re_1\n"'), "the category or the source is not a name"),
        (REFUND.replace("2026-01-10", "2026-01-12"), "wrong day: 2026-01-12"),
        (YEN, "wrong currency: jpy, not usd"),
        (REFUND.replace("txn_2", "txn_1"), "the transaction txn_1 stands in the file before"),
        ("txn_2,2026-01-10", "torn: 2 cells, the header has 15"),
        (REFUND + ",more", "torn: 16 cells, the header has 15"),
        ("", "an empty line"),
        (b"txn_2,2026-01-10 12:30:00,,usd,-5.00,0.00,-5.00,refund,re_1,caf\xe9,ch_1,pi_1,,,", "not UTF-8"),
    ],
)
def test_a_line_that_cannot_be_right_is_told_and_nothing_is_taken_in(row, reason):
    """The charge before it takes two lines of the file."""
    days = {"first_day": date(2026, 1, 10), "last_day": date(2026, 1, 11)}
    only = "usd" if reason.startswith("wrong currency") else ""
    told = refused(CHARGE, row, REFUND.replace("txn_2", "txn_9"), currency=only, **days)
    line, told_reason = told[0]
    assert line == 4
    assert told_reason.startswith(reason)


_ODD = {  # cells that may be right, or look nearly so
    "id": ["txn", "", " txn ", "tx n", "txn\x1f", "txn\n", "t" * 250, "t" * 260, "é", "\N{NO-BREAK SPACE}"],
    "category": ["charge", "refund", "", "c d", "charge 5", "x" * 65],
    "amount": [
        "5",
        "-5",
        "0",
        "",
        "-",
        "5-",
        "--5",
        "+5",
        " 5",
        "5 5",
        "5.",
        ".5",
        "5.5",
        "5.000",
        "1e3",
        "0x5",
        "1_0",
        "٥",
        "9" * 18,
        "9" * 19,
    ],
    "source": ["ch_1", "", "ch 1", "ch_1 2026-01-10", "s" * 256],
    "currency": ["usd", "USD", " jpy", "bhd", "xxx", ""],
    "day": ["2026-01-10", "2026-02-30", "1926-01-10", "2026-13-01", "20260110", "2026-1-10", "", "yesterday"],
    "time": ["12:00:00", "24:00:00", "23:59:60", "23:60:00", "12:00", "12:00:00.5", "1:00:00", "12:00:0x", ""],
    "zone": ["Z", "z", "+00:00", "+0000", "+01:00", "+25:00", "", " Z", "UTC"],
}


@pytest.mark.parametrize("header", [OURS, STRIPE.partition(",description")[0]])
def test_what_is_seen_right_at_a_glance_is_what_each_cell_says(settings, monkeypatch, header):
    settings.RECONCILE_PROBLEMS_SHOWN = 10_000
    draw = random.Random(20260110)

    def cell(of: str, most: str = "") -> str:
        return draw.choice(_ODD[of]) if draw.random() < 0.1 else most or _ODD[of][0]

    def line(number: int) -> str:
        moment = f"{cell('day')}{draw.choice('T ')}{cell('time')}{cell('zone') if header == OURS else ''}"
        id = cell("id").replace("txn", f"txn_{number}")
        told = [id, moment, *([""] if header != OURS else []), cell("currency")]
        told += [*(cell("amount", most) for most in ("5", "0", "5")), cell("category"), cell("source")]
        return ",".join(f'"{one}"' if "\n" in one else one for one in told)

    def shifted(**cells: str) -> str:
        cell = {"id": "txn_0", "category": "charge", "gross": "5", "fee": "0", "net": "5", "source": "ch_1"} | cells
        moment = ["2026-01-10 12:00:00Z"] if header == OURS else ["2026-01-10 12:00:00", ""]
        amounts = [cell[name] for name in ("gross", "fee", "net")]
        return ",".join([cell["id"], *moment, "usd", *amounts, cell["category"], cell["source"]])

    neighbours = [  # one cell says what belongs in the next
        shifted(id="txn 0", category=""),
        shifted(id="", category="txn charge"),
        shifted(category="charge 5", gross=""),
        shifted(gross="5 0", fee=""),
        shifted(gross="", fee="5 0"),
        shifted(fee="0 5", net=""),
        shifted(fee="", net="0 5"),
        shifted(net="5 ch_1", source=""),
        shifted(net="", source="5 ch_1"),
    ]
    lines = [*neighbours, *(line(number) for number in range(2_000))]
    told = take_in(*lines, header=header).problems
    assert {problem.line for problem in told} >= set(range(2, 2 + len(neighbours)))
    monkeypatch.setattr(imports, "_SEEN_RIGHT", "false")
    assert told == take_in(*lines, header=header).problems
    assert 500 < len(told) < 1_500  # there are many of either sort


@pytest.mark.parametrize("between", [" ", "T"])
@pytest.mark.parametrize(("header", "zone"), [(OURS, "Z"), (OURS, "+00:00"), (STRIPE.partition(",description")[0], "")])
def test_a_line_as_most_are_is_seen_right_at_a_glance(monkeypatch, header, zone, between):
    monkeypatch.setattr(
        imports, "_READ", imports._READ.replace("WHEN id = ''", "WHEN true THEN 'looked at' WHEN id = ''")
    )
    local = [""] if header != OURS else []
    amounts = ["5", "0", "5"] if header == OURS else ["5.00", "0.00", "5.00"]
    row = ["txn_1", f"2026-01-10{between}12:00:00{zone}", *local, "usd", *amounts, "charge", "ch_1"]
    assert take_in(",".join(row), header=header).problems == ()
    assert take_in(",".join(["txn_2", *row[1:]]).replace("charge", "a charge"), header=header).problems


def test_a_quote_that_never_ends_is_told_with_its_line():
    ((line, reason),) = refused(REFUND, YEN.replace(",,ch_2", ',"open,ch_2'))
    assert line == 3
    assert reason.startswith("torn: ")


def test_every_bad_line_is_told_up_to_a_number(settings):
    settings.RECONCILE_PROBLEMS_SHOWN = 3
    bad = [REFUND.replace("txn_2", f"txn_{number}").replace("-5.00,0.00", "x,0") for number in range(10)]
    report = take_in(CHARGE, *bad)
    assert [problem.line for problem in report.problems] == [4, 5, 6]
    assert report.problem_count == 10


def test_a_row_that_contradicts_what_we_read_before_is_told():
    theirs("ch_1", 1600, id="txn_1")
    report = take_in(CHARGE, REFUND)
    assert [problem.reason for problem in report.problems] == [
        "it says something else than what we read of txn_1 before"
    ]
    assert ProviderTransaction.objects.count() == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty: it has no header"),
        (b"a,b\n1,2\n", "this is no statement that we know"),
        ("balance_transaction_id\n".encode("utf-16"), "the file is in UTF-16: save it as UTF-8"),
        (b"balance_transaction_id,currency,currency\n", "the column 'currency' stands in the header 2 times"),
        (STRIPE.replace("fee,", "").encode(), "the column fee is missing"),
        (b"balance_transaction_id,caf\xe9\n", "the header is not UTF-8"),
        (b"balance_transaction_id,,x\n", "the column '' stands in the header 1 times"),
        (f"{STRIPE}\r{REFUND}\r".encode(), "lines end in CR alone"),
        (f"{STRIPE}\r{REFUND}\n{YEN}\n".encode(), "lines end in CR alone"),
        (f'{STRIPE},size 5"\n{REFUND},\n{YEN},\n'.encode(), "a quotation mark in the header does not close"),
        (b"balance_transaction_id,a\0b\n", "the header holds a NUL byte"),
        (b"balance_transaction_id,xmin\n", "a column cannot be called 'xmin'"),
        (",".join(["balance_transaction_id", *map(str, range(300))]).encode(), "the header has 301 columns"),
    ],
)
def test_a_file_that_is_no_statement_is_told_in_a_sentence(content, reason):
    report = services.import_statement(file=io.BytesIO(content), name="x", by="test")
    assert report.problems[0].line == 1
    assert report.problems[0].reason.startswith(reason)


def test_memory_stays_flat_however_long_the_file_is():
    def peak(rows: int) -> int:
        lines = (REFUND.replace("txn_2", f"txn_{rows}_{number}") for number in range(rows))
        file = io.BytesIO("\n".join([STRIPE, *lines]).encode())
        tracemalloc.start()
        try:
            assert services.import_statement(file=file, name="x", by="test").added == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is loaded once
    assert peak(30_000) < peak(8_000) + 300_000


# --- The commands -----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    def write(*lines: str):
        path = tmp_path / "june.csv"
        path.write_text("\n".join([STRIPE, *lines]) + "\n")
        return str(path)

    return write


def test_the_command_takes_a_file_in_once(file, capsys):
    path = file(CHARGE, REFUND)
    call_command("import_statement", path)
    call_command("import_statement", path)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "june.csv: 2 rows, 2026-01-10 to 2026-01-10: 2 new, 0 known"
    assert told[1].startswith("june.csv: taken in before, no row is new")


def test_the_command_tells_each_bad_line_and_fails(file, capsys):
    path = file(REFUND, REFUND)
    with pytest.raises(CommandError) as failed:
        call_command("import_statement", path)
    assert failed.value.returncode == 1
    assert "june.csv:3: the transaction txn_2 stands in the file before" in capsys.readouterr().err
    with pytest.raises(CommandError) as missing:
        call_command("import_statement", "/nowhere.csv")
    assert missing.value.returncode == 2


def test_a_day_is_reconciled_from_a_file_with_no_provider_asked(file, settings):
    settings.STRIPE_API_BASE = "http://127.0.0.1:1"  # nobody is there
    payment = ours("ch_1", 1500, at=NOON)
    our_refund(payment, "re_1", 400, at=NOON)
    code, text = reconcile("--statement", file(CHARGE, REFUND), "--json")
    assert code == 1
    (run,) = json.loads(text)["runs"]
    assert (run["date"], run["theirs"], run["matched"]) == ("2026-01-10", {"count": 2, "totals": {"usd": 1000}}, 1)
    assert [item.kind for item in Discrepancy.objects.all()] == [Kind.AMOUNT_MISMATCH_REFUND]
    with pytest.raises(CommandError) as refusal:
        call_command("reconcile", "--statement", file(REFUND.replace("01-10", "01-09")), "--date", "2026-01-10")
    assert refusal.value.returncode == 2
