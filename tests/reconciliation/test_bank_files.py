"""Files of our bank: taken in as a whole or not at all, each once, each bad line told with its reason."""

import hashlib
import io
import json
import re
import tracemalloc
from datetime import date
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from foundation.ids import uuid7
from reconciliation import services
from reconciliation.bank import keeping, legs
from reconciliation.bank.staging import Expected
from reconciliation.errors import BooksBusy
from reconciliation.models import BankLine, BankMatch, BankStatement, RawRow, StatementFile
from reconciliation.services import bank
from reconciliation.types import StatementReport
from tests.races import orders
from tests.reconciliation.test_sharing import database_url

pytestmark = pytest.mark.django_db(transaction=True)

FOLDER = Path(__file__).parent / "statements"
MONDAY, TUESDAY = date(2026, 1, 12), date(2026, 1, 13)


def content(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def take_in(data: bytes | str, name: str = "january", **expected) -> StatementReport:
    data = data if isinstance(data, bytes) else data.encode()
    return services.import_bank_statement(file=io.BytesIO(data), name=name, by="clara", expected=Expected(**expected))


def refused(data: bytes | str, **expected) -> list[tuple[int, str]]:
    """What is told; nothing may have been taken in."""
    report = take_in(data, **expected)
    assert not BankLine.objects.exists()
    assert not BankStatement.objects.exists()
    assert not RawRow.objects.exists()
    file = StatementFile.objects.get()
    assert (file.refused, file.added, file.by, file.whose) == (True, 0, "clara", "bank")
    told = [(problem.line, problem.reason) for problem in report.problems]
    assert file.problems == [list(problem) for problem in told]
    return told


def stored() -> list[tuple]:
    rows = BankLine.objects.order_by("line")
    return list(rows.values_list("booked_on", "valued_on", "amount_minor", "currency", "reference", "of_provider"))


# --- What is taken in -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["camt053_v02.xml", "camt053_v08.xml", "statement.mt940", "bank.csv"])
def test_the_same_statement_in_each_layout_is_the_same_bookings(name):
    """1,000.00 and 77.78 from Stripe, less a fee of 4.90, and 250.00 from Jane Doe: 1,322.88."""
    report = take_in(content(name))
    layout = {"xml": "camt053", "mt940": "mt940", "csv": "bank_csv"}[name.rpartition(".")[2]]
    assert (report.layout, report.rows, report.added, report.problems) == (layout, 3, 3, ())
    assert (report.first_day, report.last_day) == (MONDAY, TUESDAY)
    own = ("B-1", "B-2", "B-3") if layout == "bank_csv" else ("2026011200001", "", "2026011300001")
    wednesday = date(2026, 1, 14)
    assert stored() == [
        (MONDAY, MONDAY, 7778, "eur", own[0], True),
        (MONDAY, None if layout == "bank_csv" else MONDAY, -490, "eur", own[1], False),
        (TUESDAY, wednesday, 25000, "eur", own[2], False),
    ]
    assert list(BankLine.objects.order_by("line").values_list("counterparty", flat=True)[:1]) == [
        "STRIPE TECHNOLOGY EUROPE LTD"
    ]
    statement = BankStatement.objects.get()
    balances = (None, None) if layout == "bank_csv" else (100000, 132288)
    assert (statement.opening_minor, statement.closing_minor, statement.lines) == (*balances, 3)
    file = StatementFile.objects.get()
    assert (file.whose, file.by, file.rows, file.refused) == ("bank", "clara", 3, False)


def test_what_only_is_announced_is_no_booking():
    take_in(content("camt053_v08.xml"))
    assert not BankLine.objects.filter(amount_minor=9900).exists()


def test_all_references_of_a_booking_can_be_found_in_its_line():
    take_in(content("camt053_v02.xml"))
    line = BankLine.objects.get(of_provider=True)
    assert (line.references, line.text) == ("STRIPE-A1B2C3 TRC-2026/0112", "STRIPE PAYOUT")


def test_raw_lines_are_kept_by_their_hash():
    take_in(content("statement.mt940"))
    line = BankLine.objects.get(amount_minor=25000)
    raw = RawRow.objects.get(pk=line.sha256)
    assert bytes(line.sha256) == hashlib.sha256(raw.body.encode()).digest()
    assert raw.body == (":61:2601140113C250,00NTRFINV17//2026011300001\nfrom abroad\n:86:Jane Doe, invoice 17")


def test_the_same_file_twice_changes_nothing():
    take_in(content("camt053_v02.xml"))
    before = list(BankLine.objects.order_by("pk").values())
    report = take_in(content("camt053_v02.xml"))
    assert (report.replayed, report.rows, report.added, report.known) == (True, 3, 0, 3)
    assert list(BankLine.objects.order_by("pk").values()) == before
    assert (StatementFile.objects.count(), BankStatement.objects.count()) == (1, 1)


def test_a_line_that_comes_in_two_files_is_one_line():
    """A bank's weekly statement repeats the daily ones; an entry without a reference is known by what it says."""
    take_in(content("camt053_v02.xml"))
    weekly = (
        content("camt053_v02.xml").replace(b"<NtryRef>2<", b"<NtryRef>17<").replace(b"<Id>20260113-1<", b"<Id>week<")
    )
    report = take_in(weekly)
    assert (report.rows, report.added, report.known) == (3, 0, 3)


def test_two_equal_bookings_of_one_day_stay_two_and_a_third_is_added():
    fee = ":61:2601120112D4,90NMSCNONREF\n:86:Account keeping\n"
    head = ":20:A\n:25:DE1\n:28C:1\n:60F:C260112EUR100,00\n"
    assert take_in(f"{head}{fee * 2}:62F:C260112EUR90,20\n").added == 2
    report = take_in(f"{head}{fee * 3}:62F:C260112EUR85,30\n")
    assert (report.added, report.known) == (1, 2)
    assert BankLine.objects.count() == 3


def page(number: str, opening: int, *amounts: int, day: str = "260112", reference: str = "NONREF") -> str:
    """A statement of one day; all bookings say the same."""
    bookings = "".join(
        f":61:{day}{'C' if amount > 0 else 'D'}{abs(amount)},00NTRF{reference}\n:86:STRIPE PAYOUT\n"
        for amount in amounts
    )
    closing = f":62F:C{day}EUR{opening + sum(amounts)},00\n-\n"
    return f":20:A\n:25:DE1\n:28C:{number}\n:60F:C{day}EUR{opening},00\n{bookings}{closing}"


@pytest.mark.parametrize("reference", ["NONREF", "NONREF//STRIPE"])
@pytest.mark.parametrize("order", ["123", "132", "213", "231", "312", "321"])
def test_equal_bookings_in_several_statements_of_one_day_stay_as_many(reference, order):
    """Each begins with the balance with which the one before ends, so it is not the same money."""
    pages = {
        "1": page("5/1", 100, 50, 7, reference=reference),
        "2": page("5/2", 157, 50, reference=reference),
        "3": page("5/3", 207, 50, reference=reference),
    }
    for number in order:
        take_in(pages[number])
    amounts = list(BankLine.objects.order_by("amount_minor").values_list("amount_minor", flat=True))
    assert amounts == [700, 5000, 5000, 5000]
    for number in order:  # again, in another file each
        assert take_in(f"{pages[number]}\n").added == 0
    for whole_day in (page("5", 100, 50, 7, 50, 50, reference=reference), pages["1"] + pages["2"] + pages["3"]):
        report = take_in(whole_day)
        assert (report.problems, report.added) == ((), 0)


def test_the_statement_of_a_week_brings_no_booking_of_its_days_again():
    """Its days were there before, and end and begin with the same balance."""
    take_in(page("5", 100, 50, -50) + page("6", 100, 50, day="260113"))
    week = page("W3", 100, 50, -50).replace(":62F:C260112EUR100,00\n-\n", "")
    week += ":61:260113C50,00NTRFNONREF\n:86:STRIPE PAYOUT\n:62F:C260113EUR150,00\n-\n"
    assert take_in(week).added == 0
    assert BankLine.objects.count() == 3


def told_of(day: str, number: str, opening: int, *amounts: int, first: str = "") -> str:
    """A statement whose opening balance bears the day of the booking before, as MT940 has it."""
    text = page(number, opening, *amounts, day=day)
    return text.replace(f":60F:C{day}", f":60F:C{first}") if first else text


def camt_page(
    id_: str,
    opening: int,
    *amounts: int,
    days: tuple[str, str] = ("2026-01-12", "2026-01-12"),
    booked: str = "2026-01-12",
) -> str:
    """CAMT.053, all bookings of which say the same."""
    entry = (
        '<Ntry><Amt Ccy="EUR">{}</Amt><CdtDbtInd>{}</CdtDbtInd><Sts>BOOK</Sts><BookgDt><Dt>{}</Dt></BookgDt>'
        "<AddtlNtryInf>STRIPE</AddtlNtryInf></Ntry>"
    )
    balance = (
        '<Bal><Tp><CdOrPrtry><Cd>{}</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">{}</Amt><CdtDbtInd>CRDT</CdtDbtInd>'
        "<Dt><Dt>{}</Dt></Dt></Bal>"
    )
    return (
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.02"><BkToCstmrStmt><Stmt>'
        f"<Id>{id_}</Id><Acct><Id><IBAN>DE89370400440532013000</IBAN></Id><Ccy>EUR</Ccy></Acct>"
        + balance.format("OPBD", opening, days[0])
        + balance.format("CLBD", opening + sum(amounts), days[1])
        + "".join(entry.format(abs(one), "CRDT" if one > 0 else "DBIT", booked) for one in amounts)
        + "</Stmt></BkToCstmrStmt></Document>"
    )


def test_equal_bookings_with_one_reference_are_as_many_as_the_balances_prove():
    """A bank's batch: one reference, two equal transfers."""
    batch = "NONREF//BATCH1"
    assert take_in(page("5/1", 100, 50, reference=batch)).added == 1
    assert take_in(page("5/2", 150, 50, 50, reference=batch)).added == 2
    week = page("W3", 100, 50, 50, 50, 50, reference=batch)
    assert take_in(week).added == 1  # one more, of a page that did not come
    assert BankLine.objects.count() == 4
    assert set(BankStatement.objects.values_list("number", "lines")) == {("5/1", 1), ("5/2", 2), ("W3", 4)}


def test_a_booking_of_the_day_before_is_none_of_the_statement_of_that_day():
    """Tuesday's statement brings one that is booked on Monday, and says what one of Monday's says. The week has both."""
    assert take_in(camt_page("1", 100, 50)).added == 1
    assert take_in(camt_page("2", 150, 50, days=("2026-01-13", "2026-01-13"))).added == 1
    week = camt_page("W", 100, 50, 50, days=("2026-01-12", "2026-01-16"))
    assert take_in(week).added == 0
    assert take_in(told_of("260112", "5", 100, 50, first="260109")).added == 1
    assert take_in(told_of("260113", "6", 150, 50, first="260112").replace("61:260113", "61:260112")).added == 1


@pytest.mark.parametrize("pages", [((100, 50), (150, 50, -50)), ((100, 50, 7), (157, 50))])
def test_pages_without_numbers_go_on_where_the_balances_do(pages):
    for order in (0, 1), (1, 0), (0, 1):
        for number in order:
            take_in(camt_page(f"p{number}", *pages[number]) + "\n" * StatementFile.objects.count())
    assert BankLine.objects.count() == sum(len(one) - 1 for one in pages)
    assert not StatementFile.objects.filter(refused=True).exists()


UNCLEAR = "the balances do not show whether it brings bookings of statement {} of 2026-01-12 again, or others that say the same"


@pytest.mark.parametrize(
    ("before", "unclear"),
    [
        ((100, 50, -50), (100, 50)),  # the first booking once more, or a third one
        ((100, 50), (50, 50, 50, -50)),  # the booking of the other one among them, or before them
        ((100, 50), (207, 50)),  # what is between them is not there yet
    ],
)
def test_what_may_be_the_same_booking_or_another_is_refused_and_not_dropped(before, unclear):
    take_in(camt_page("p1", *before))
    report = take_in(camt_page("p2", *unclear))
    assert [one.reason for one in report.problems] == [UNCLEAR.format("p1")]
    assert (BankLine.objects.count(), BankStatement.objects.count()) == (len(before) - 1, 1)


def test_a_statement_that_goes_on_from_another_one_in_its_file_is_told_from_it():
    assert take_in(page("5", 100, 50, -50) + page("6", 100, 50)).added == 3


def test_a_week_may_tell_its_newest_day_first():
    monday, tuesday = page("5", 100, 50, 7), page("6", 157, 50, day="260113")
    assert take_in(monday + tuesday).added == 3
    lines = [":61:260113C50,00NTRFNONREF", ":61:260112C7,00NTRFNONREF", ":61:260112C50,00NTRFNONREF"]
    week = "".join(f"{one}\n:86:STRIPE PAYOUT\n" for one in lines)
    report = take_in(f":20:A\n:25:DE1\n:28C:W\n:60F:C260112EUR100,00\n{week}:62F:C260113EUR207,00\n")
    assert (report.problems, report.added) == ((), 0)


def test_what_two_statements_both_tell_is_told_once():
    """Monday to Tuesday, and Tuesday to Wednesday."""

    def days(number: str, opening: int, *told: str) -> str:
        lines = "".join(f":61:2601{day}C50,00NTRFNONREF\n:86:STRIPE PAYOUT\n" for day in told)
        closing = opening + 50 * len(told)
        head = f":20:A\n:25:DE1\n:28C:{number}\n:60F:C2601{told[0]}EUR{opening},00\n"
        return f"{head}{lines}:62F:C2601{told[-1]}EUR{closing},00\n"

    assert take_in(days("1", 100, "12", "13", "13")).added == 3
    report = take_in(days("2", 150, "13", "13", "13", "14"))
    assert (report.problems, report.added, report.known) == ((), 2, 2)


@pytest.mark.parametrize(
    ("first", "second", "new"),
    [
        # CAMT's ids are names, whatever they look like: the evening's statement holds that of noon.
        (camt_page("20260112/1", 100, 50), camt_page("20260112/2", 100, 50, 30), 1),
        # The bank lists the newest booking first, in both.
        (camt_page("noon", 100, 7, 50), camt_page("evening", 100, 3, 7, 50), 1),
        # A week in which Monday alone had bookings, of an account that is emptied every day.
        (camt_page("monday", 0, 50, -50), camt_page("W", 0, 50, -50, days=("2026-01-12", "2026-01-16")), 0),
    ],
)
def test_a_statement_that_holds_another_one_brings_what_is_new_alone(first, second, new):
    before = take_in(first).added
    report = take_in(second)
    assert (report.problems, report.added) == ((), new)
    assert BankLine.objects.count() == before + new


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_statement_without_balances_tells_of_the_same_bookings(order):
    whole = camt_page("1", 100, 50, 7)
    files = [
        whole,
        re.sub(r"<Bal>.*?</Bal>", "", whole).replace(
            "<Acct>", "<FrToDt><FrDtTm>2026-01-12T00:00:00</FrDtTm><ToDtTm>2026-01-12T23:59:59</ToDtTm></FrToDt><Acct>"
        ),
    ]
    reports = [take_in(files[number]) for number in order]
    assert [(one.problems, one.added) for one in reports] == [((), 2), ((), 0)]


def test_a_file_of_many_statements_takes_no_more_locks_than_one_of_few(monkeypatch):
    locks = []
    keep = keeping.keep

    def count_after(*told):
        added = keep(*told)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()")
            locks.append(cursor.fetchone()[0])
        return added

    monkeypatch.setattr(keeping, "keep", count_after)
    days = [page(str(number), 100 + number, 1, day=f"2601{number:02}") for number in range(1, 29)]
    assert take_in("".join(days)).added == 28
    assert locks[-1] == locks[1]


def test_a_large_statement_that_comes_again_needs_no_more_buffers_than_there_are():
    """A session has 128 buffers for temporary tables, and a scan pins what it reads ahead."""
    amounts = [1 + number % 977 for number in range(12_000)]
    assert take_in(page("5", 100, *amounts).replace("STRIPE", "JANE")).added == len(amounts)
    report = take_in(page("W", 100, *amounts).replace("STRIPE", "JANE"))
    assert (report.problems, report.added) == ((), 0)


def test_lines_that_are_in_while_a_run_is_under_way_are_told_to_be_in(monkeypatch):
    def busy(**_):
        raise BooksBusy

    monkeypatch.setattr(bank, "match_bank_lines", busy)
    report = take_in(page("5", 100, 50))
    assert (report.added, report.matched) == (1, 0)
    assert report.notes == (
        "A reconciliation run is under way: what payouts these lines are is looked at by the next one.",
    )


def test_whoever_waits_too_long_for_another_file_is_told_that_nothing_is_in(monkeypatch):
    monkeypatch.setattr(bank, "_WAIT_FOR_RUN_S", 0.1)
    with psycopg.connect(database_url(), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('bank account DE1', 0))")
        with pytest.raises(BooksBusy, match="of this file nothing is"):
            take_in(page("5", 100, 50))
    assert not BankLine.objects.exists()


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_two_pages_taken_in_at_once_lose_no_booking(race, turns):
    pages_at_once(race, turns)
    assert BankLine.objects.count() == 2


def pages_at_once(race, turns: str) -> None:
    race.stop("reconciliation.bank.staging.keep", at="after")
    race.actor("a", lambda: take_in(page("5/1", 100, 50, reference="NONREF//BATCH1")))
    race.actor("b", lambda: take_in(page("5/2", 150, 50, reference="NONREF//BATCH1")))
    race.play(turns)


def test_control_without_the_lock_a_page_is_not_taken_in(race, monkeypatch):
    """PostgreSQL refuses the second line of one key: loud, and not silently dropped."""
    monkeypatch.setattr("reconciliation.services.bank.one_keeper", lambda accounts, wait_s: None)
    race.stop("reconciliation.bank.staging.keep", at="after")
    race.actor("a", lambda: take_in(page("5/1", 100, 50)))
    race.actor("b", lambda: take_in(page("5/2", 150, 50)))
    results = race.play("a b a b")
    assert isinstance(results["b"], IntegrityError)
    assert BankLine.objects.count() == 1


def test_a_csv_taken_in_twice_at_once_tells_its_lines_once(race):
    race.stop("reconciliation.bank.staging.keep", at="after")
    for name, end in (("a", b""), ("b", b"\r\n")):
        data = content("bank.csv").replace(b"\n", b"\r\n") if end else content("bank.csv")
        race.actor(name, lambda data=data: take_in(data).added)
    assert race.play("a b a b") == {"a": 3, "b": 0}


def test_a_statement_that_holds_less_than_it_says_is_refused_by_postgresql():
    take_in(page("5", 100, 50))
    row = BankStatement.objects.get()
    for fault in ({"lines": 1}, {"lines": 0}):
        row.pk = uuid7()
        for name, value in fault.items():
            setattr(row, name, value)
        with pytest.raises(IntegrityError, match="does not add up"), transaction.atomic():
            row.save(force_insert=True)


def test_that_a_statement_is_missing_is_told_and_no_longer_once_it_came():
    assert take_in(page("5", 100, 50)).notes == ()
    later = take_in(page("9", 300, 50, day="260121"))
    assert later.notes == (
        "A statement of DE1 is missing between 2026-01-12 and 2026-01-21: the balances do not lead from one to the other.",
    )
    assert take_in(page("7", 150, 150, day="260114")).notes == ()
    again = take_in(page("9", 300, 50, day="260121") + "\n")
    assert (again.added, again.notes) == (0, ())


def test_an_iban_is_one_account_with_blanks_and_without():
    data = content("bank.csv")
    take_in(data, account="DE89 3704 0044 0532 0130 00")
    report = take_in(data.replace(b"DE89370400440532013000", b"de89 3704 0044 0532 0130 00"))
    assert (report.added, report.known) == (0, 3)
    assert set(BankLine.objects.values_list("account", flat=True)) == {"DE89370400440532013000"}


MISSING = "A statement of DE1 is missing {}: the balances do not lead from one to the other."


@pytest.mark.parametrize(
    ("before", "later", "where"),
    [
        # MT940's opening balance bears the day of the booking before: the days touch.
        (
            told_of("260112", "5", 100, 50, first="260109"),
            told_of("260113", "7", 300, 50, first="260112"),
            "on 2026-01-12",
        ),
        (page("5/1", 100, 50), page("5/3", 200, 50), "on 2026-01-12"),
        (told_of("260112", "5/1", 100, 50, first="260109"), page("5/3", 200, 50), "on 2026-01-12"),
        (
            told_of("260109", "4", 0, 300) + told_of("260112", "5", 300, -150, first="260109"),
            told_of("260113", "7", 300, 50, first="260112"),  # as much as the last but one ended with
            "on 2026-01-12",
        ),
    ],
)
def test_a_statement_that_is_missing_is_told_where_days_touch(before, later, where):
    assert take_in(before).notes == ()
    assert take_in(later).notes == (MISSING.format(where),)


def test_no_statement_is_missing_where_one_begins_within_another():
    """A week, and days of it; each file in an order of its own; MT940's days, which touch."""
    week = told_of("260113", "W", 100, 50, 50, first="260109").replace("61:260113C50", "61:260112C50", 1)
    days = [told_of("260112", "5", 100, 50, first="260109"), told_of("260113", "6", 150, 50, first="260112")]
    for files in ([week, days[1]], [days[1], days[0], week], [days[0], week, days[1]]):
        reports = [take_in(one + "\n" * StatementFile.objects.count()) for one in files]
        assert [(one.problems, one.notes) for one in reports[1:]] == [((), ())] * (len(files) - 1)
    assert BankLine.objects.count() == 2
    assert not any(legs.gaps(one.pk) for one in StatementFile.objects.all())


def test_a_day_without_bookings_within_a_week_that_is_there_misses_none():
    take_in(camt_page("W", 100, 50, 50, days=("2026-01-12", "2026-01-16")))
    assert take_in(camt_page("wednesday", 150, days=("2026-01-14", "2026-01-14"))).notes == ()


def test_several_statements_of_several_accounts_in_one_file():
    one = ":20:A\n:25:DE1\n:28C:1\n:60F:C260112EUR100,00\n:61:260112C1,00NTRFNONREF//R1\n:62F:C260112EUR101,00\n-\n"
    two = one.replace("DE1", "JP2").replace("EUR1", "JPY1").replace("C1,00", "C1,").replace(",00", ",")
    assert take_in(one + two).added == 2
    assert list(BankLine.objects.order_by("line").values_list("account", "currency", "amount_minor")) == [
        ("DE1", "eur", 100),
        ("JP2", "jpy", 1),
    ]


def test_a_text_may_hold_blank_lines_and_what_looks_like_an_envelope():
    text = mt940(":61:260112C1,00NTRFNONREF", ":86:Stripe", "", "-payout", "{note}", "last")
    assert take_in(f"{{1:F01}}{{4:\n{text}-}}\n").problems == ()
    assert BankLine.objects.get().text == "Stripe -payout {note} last"


def test_what_a_bank_reverses_has_the_sign_of_what_it_does_to_the_account():
    text = (
        ":20:A\n:25:DE1\n:28C:1\n:60F:C260112EUR100,00\n:61:260112RC30,00NTRFNONREF\n:61:260112RD5,00NTRFNONREF\n"
        ":62F:C260112EUR75,00\n"
    )
    take_in(text)
    assert [row[2] for row in stored()] == [-3000, 500]


def test_an_entry_date_of_december_belongs_to_the_old_year():
    text = ":20:A\n:25:DE1\n:28C:1\n:60F:C260102EUR0,00\n:61:2601021231C5,00NTRFNONREF\n:62F:C260102EUR5,00\n"
    take_in(text)
    assert BankLine.objects.get().booked_on == date(2025, 12, 31)


def test_a_file_in_another_encoding_is_read_where_it_is_said():
    text = content("bank.csv").decode().encode("latin-1")
    assert (4, "not UTF-8") in [(problem.line, problem.reason) for problem in take_in(text).problems]
    assert take_in(text, encoding="latin-1").added == 3
    assert BankLine.objects.get(amount_minor=-490).text == "Kontoführung"


# --- What is refused --------------------------------------------------------------------------------


def mt940(*lines: str, closing: str = "C260112EUR101,00") -> str:
    return "\n".join([":20:A", ":25:DE1", ":28C:1", ":60F:C260112EUR100,00", *lines, f":62F:{closing}", ""])


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (mt940(":61:260112C1,00NTRFNONREF", closing="C260112EUR111,00"), 1,
         "torn: opening balance and lines lead to €101.00, the closing balance says €111.00"),
        (mt940(":61:260230C1,00NTRFNONREF"), 5, "torn: this is no booking: 260230C1,00NTRFNONREF"),
        (mt940(":61:260112X1,00NTRFNONREF"), 5, "torn: this is no booking: 260112X1,00NTRFNONREF"),
        (mt940(":61:260112C1,001NTRFNONREF"), 5, "an amount has more decimals than EUR counts"),
        (mt940("and more"), 5, None),
        (":20:A\n:25:DE1\n:60F:C260112EUR100,00\n:61:260112C1,00NTRFNONREF\n", 1, "torn: the statement has no closing balance"),
        (":20:A\n:25:DE1\n:61:260112C1,00NTRFNONREF\n:62F:C260112EUR1,00\n", 3, "torn: it stands before the opening balance"),
        (mt940(":61:260112C1,00NTRFX//R1", ":61:260112C1,00NTRFX//R1"), 1,
         "torn: opening balance and lines lead to €102.00, the closing balance says €101.00"),
        (":20:A\n:28C:1\n:60F:C260112EUR0,00\n:62F:C260112EUR0,00\n", 1, "the statement does not say of which account it is"),
        (b":20:A\n:25:DE1\n:86:caf\xe9\n", 3, "not UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_line_of_mt940_is_told(data, line, reason):
    told = refused(data)
    if reason is None:  # it went on the opening balance, which is none any more
        assert told
    else:
        assert (line, reason) in told


def camt(old: str, new: str, name: str = "camt053_v08.xml") -> bytes:
    text = content(name).decode()
    assert old in text
    return text.replace(old, new).encode()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (camt("<Amt Ccy=\"EUR\">250.00</Amt>", "<Amt Ccy=\"EUR\">25.00</Amt>"),
         (8, "torn: opening balance and lines lead to €1,097.88, the closing balance says €1,322.88")),
        (camt("<Amt Ccy=\"EUR\">250.00</Amt>", "<Amt Ccy=\"USD\">250.00</Amt>"),
         (76, "entry 4: wrong currency: usd, the account's is eur")),
        (camt("<Amt Ccy=\"EUR\">250.00</Amt>", "<Amt Ccy=\"EUR\">250.001</Amt>"),
         (76, "entry 4: an amount has more decimals than EUR counts")),
        (camt("<Amt Ccy=\"EUR\">250.00</Amt>", "<Amt Ccy=\"EUR\">NaN</Amt>"), (76, "entry 4: the amount is not one: NaN")),
        (camt("<CdtDbtInd>DBIT</CdtDbtInd>", ""), (58, "entry 2: it does not say whether it is credit or debit")),
        (camt("2026-01-13T09:30:00+01:00", "2026-13-01"), (76, "entry 4: the booking date is not a day: 2026-13-01")),
        (camt("<IBAN>DE89370400440532013000</IBAN>", ""), (32, "the statement does not say of which account it is")),
        (camt("2026011300001", "2026011200001").replace(b"250.00", b"77.78").replace(b"1322.88", b"1072.88").replace(
            b"<DtTm>2026-01-13T09:30:00+01:00</DtTm>", b"<Dt>2026-01-12</Dt>"),
         (8, "torn: opening balance and lines lead to €1,150.66, the closing balance says €1,072.88")),
        (re.sub(rb"(?s)<Bal>.*</Bal>", b"", camt("2026011300001", "2026011200001").replace(b"250.00", b"77.78")
                .replace(b"<DtTm>2026-01-13T09:30:00+01:00</DtTm>", b"<Dt>2026-01-12</Dt>")),
         (0, "the line 2026011200001 stands in the file before")),
        (camt("camt.053.001.08", "camt.054.001.08"), (2, "this is no CAMT.053: ")),
        (camt("</BkToCstmrStmt>", ""), (100, "torn: ")),
        (content("camt053_v08.xml")[:2_000], (0, "torn: ")),
        (camt("Jane Doe", "J\x01ne"), (0, "torn: ")),
        (content("camt053_v08.xml").replace("Köln".encode(), b"K\xf6ln"), (0, "torn: ")),
        (camt("<Document", "<!DOCTYPE Document [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>\n<Document"),
         (1, "a document type has no place in a statement")),
    ],
)  # fmt: skip
def test_a_bad_entry_of_camt_is_told(data, told):
    line, reason = told
    found = refused(data)
    assert any(one.startswith(reason) and line in (0, at) for at, one in found), found


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("B-2,", "B-1,", 4, "the line B-1 stands in the file before"),
        ("B-2,", ",", 4, "it has no reference"),
        ("-490", "-4.90", 4, "the amount is not a number of minor units: -4.90"),
        ("EUR,", "EUX,", 4, "the currency is not known: eux"),
        ("2026-01-13,", "13.01.2026,", 5, "the booking date is not a day: 13.01.2026"),
        (
            "B-2,DE89370400440532013000,2026-01-12,,EUR,-490,,,Kontoführung",
            "B-2,DE89",
            4,
            "torn: 2 cells, the header has 9",
        ),
        ("B-2,DE89370400440532013000,2026-01-12,,EUR,-490,,,Kontoführung", "", 4, "an empty line"),
        ("Kontoführung", "a\0b", 4, "it holds a NUL byte"),
        (
            "booked_on,valued_on",
            "valued_on,booked_on,booked_on",
            1,
            "the column 'booked_on' stands in the header 2 times",
        ),
        (",amount_minor", "", 1, "the column amount_minor is missing"),
    ],
)
def test_a_bad_line_of_our_csv_is_told(old, new, line, reason):
    text = content("bank.csv").decode()
    assert old in text
    assert (line, reason) in refused(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("expected", "line", "reason"),
    [
        ({"currency": "usd"}, 2, "wrong currency: eur, not usd"),
        ({"account": "DE1"}, 2, "wrong account: DE89370400440532013000, not DE1"),
        ({"first_day": TUESDAY}, 2, "wrong day: 2026-01-12"),
        ({"last_day": MONDAY}, 5, "wrong day: 2026-01-13"),
    ],
)
def test_what_was_expected_of_a_file_is_held_against_it(expected, line, reason):
    assert (line, reason) in refused(content("bank.csv"), **expected)


def test_a_line_that_says_something_else_than_before_is_told():
    take_in(content("bank.csv"))
    report = take_in(content("bank.csv").replace(b"25000", b"25001"))
    assert [problem.reason for problem in report.problems] == ["it says something else than what we read of B-3 before"]
    assert BankLine.objects.count() == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"a,b\n1,2\n", "this is no bank statement that we know"),
        ("booked_on,x\n".encode("utf-16"), "the file is in UTF-16: save it as UTF-8"),
        (b"<html/>", "this is no CAMT.053: html"),
    ],
)
def test_a_file_that_is_no_statement_is_told_in_a_sentence(data, reason):
    ((line, told),) = refused(data)
    assert (line, told.startswith(reason)) == (1, True), told


def test_a_refused_file_can_be_taken_in_once_it_is_mended():
    take_in(content("bank.csv").replace(b"-490", b"x"))
    assert take_in(content("bank.csv")).added == 3
    assert list(StatementFile.objects.order_by("pk").values_list("refused", "problem_count")) == [(True, 1), (False, 0)]


def test_every_bad_line_is_told_up_to_a_number(settings):
    settings.RECONCILE_PROBLEMS_SHOWN = 2
    head = content("bank.csv").decode().splitlines()[0]
    report = take_in("\n".join([head, *(f"R{number},DE1,x,,eur,1,,," for number in range(5))]) + "\n")
    assert (report.problem_count, [problem.line for problem in report.problems]) == (5, [2, 3])


def camt_of(entries: int) -> bytes:
    head, _, rest = content("camt053_v08.xml").decode().partition("<Ntry>")
    tail = rest.rpartition("</Ntry>")[2]
    entry = (
        "<Ntry><Amt Ccy='EUR'>1.00</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts>"
        "<BookgDt><Dt>2026-01-12</Dt></BookgDt><AcctSvcrRef>{}</AcctSvcrRef>"
        "<BkTxCd><Prtry><Cd>NTRF+166</Cd></Prtry></BkTxCd></Ntry>"
    )
    closing = f"{1000 + entries}.00"
    return (head.replace("1322.88", closing) + "".join(map(entry.format, range(entries))) + tail).encode()


def _mt940_of(lines: int) -> bytes:
    booking = (f":61:2601120112C1,00NTRFNONREF//R{number}\n:86:a text" for number in range(lines))
    return mt940(*booking, closing=f"C260112EUR{100 + lines},00").encode()


@pytest.mark.parametrize("made", [camt_of, _mt940_of])
def test_memory_stays_flat_however_long_the_file_is(made):
    def peak(rows: int) -> int:
        file = io.BytesIO(made(rows))
        tracemalloc.start()
        try:
            assert services.import_bank_statement(file=file, name="x", by="test").rows == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is loaded once
    assert peak(1_200) < peak(200) + 300_000


# --- The command ------------------------------------------------------------------------------------


def test_the_command_takes_a_file_in_once(capsys):
    path = str(FOLDER / "camt053_v02.xml")
    call_command("import_bank_statement", path)
    assert capsys.readouterr().out == (
        "camt053_v02.xml: 3 rows, 2026-01-12 to 2026-01-13: 3 new, 0 known\n0 matched with payouts\n"
    )
    call_command("import_bank_statement", path)
    assert "taken in before, no row is new (3 rows" in capsys.readouterr().out


def test_the_command_tells_what_is_wrong_and_with_which_exit_code(tmp_path, capsys):
    path = tmp_path / "bank.csv"
    path.write_bytes(content("bank.csv").replace(b"-490", b"x"))
    with pytest.raises(CommandError) as refusal:
        call_command("import_bank_statement", str(path))
    assert refusal.value.returncode == 1
    assert "bank.csv:4: the amount is not a number of minor units: x" in capsys.readouterr().err
    with pytest.raises(CommandError) as refusal:
        call_command("import_bank_statement", str(path), "--json")
    assert json.loads(capsys.readouterr().out)["problem_count"] == 1
    for arguments in ([str(tmp_path / "nothing")], [str(path), "--encoding", "klingon"]):
        with pytest.raises(CommandError) as refusal:
            call_command("import_bank_statement", *arguments)
        assert refusal.value.returncode == 2
    assert not BankMatch.objects.exists()
