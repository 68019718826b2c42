"""Months close once, in their order, on settled books; what comes late goes on; two people reopen, and see what changed."""

from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import Sum

from foundation.database import database_now
from foundation.errors import IllegalTransition, NotFound
from payments import ledger
from payments import services as payments
from payments.errors import BooksNotSettled, SecondPersonNeeded
from payments.models import BookCut, JournalEntry, Posting
from reconciliation import selectors, services
from reconciliation.errors import NoteMissing, NothingToApprove, PeriodIsClosed, PeriodIsOpen, PeriodNotReady
from reconciliation.models import Period, PeriodClosing, PeriodReopening, ProviderTransaction
from reconciliation.services import periods
from reconciliation.types import ActionInput
from tests.payments.test_ledger import CLEARING, CUSTOMER, post
from tests.races import orders
from tests.reconciliation.ledgers import booked, both, our_payout, ours, the, theirs
from tests.reconciliation.months import (
    FEBRUARY,
    JANUARY,
    LAST,
    MARCH,
    NOON,
    as_reconciled,
    close,
    closed_january,
    is_provable,
    late_charge,
    reopened,
)
from tests.reconciliation.test_statements import provider_holds, sold, was_read

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def patient(settings):
    settings.BOOKS_SETTLE_WAIT_S = settings.BOOKS_REPORT_WAIT_S = 20  # for other tests' transactions on this server


def state(month=JANUARY) -> str:
    return str(Period.objects.get(pk=month).state)


def lines(closing: PeriodClosing, which: str = "lines", currency: str = "usd") -> dict[str, tuple[int, int]]:
    """category → rows, net."""
    return {one["category"]: (one["rows"], one["net_minor"]) for one in closing.statements[currency][which]}


def violated(error: pytest.ExceptionInfo[IntegrityError]) -> str:
    return str(error.value.__cause__.diag.constraint_name)  # type: ignore[union-attr]


# --- Closing ------------------------------------------------------------------------------------------


def test_a_month_closes_with_its_statement_and_its_items(reconcile):
    theirs("ch_2", 2000, at=NOON, currency="eur")
    reconcile(LAST)
    services.perform(discrepancy_id=the("ch_2").pk, action="accept", by="clara", note="not ours")
    closing = closed_january(reconcile)
    assert state() == "closed"
    assert lines(closing) == {"charge": (1, 1426)}  # 15.00 less 0.74
    assert lines(closing, currency="eur") == {"charge": (1, 1926)}  # 20.00 less 0.74
    usd = closing.statements["usd"]
    assert (usd["opening_minor"], usd["late"], usd["closing_minor"]) == (0, [], 1426)
    assert {proof["name"] for proof in usd["proofs"]} == {"balance", "clearing", "payouts"}
    assert closing.items == {
        "states": {"resolved": 1},
        "kinds": {"missing_in_our_system": 1},
        "late": 0,
        "carried": 0,
    }
    assert closing.sealed_through >= datetime(2026, 2, 1, tzinfo=UTC)
    assert (closing.number, closing.closed_by, closing.differences) == (1, "maria", None)
    assert closing.note == "month's end (without Stripe's balance in EUR, USD)"
    with pytest.raises(PeriodIsClosed):
        close()


def test_what_stands_in_the_way_is_named(reconcile, settings):
    with pytest.raises(NotFound):
        close()  # nothing was ever booked
    theirs("ch_1", at=NOON)
    with pytest.raises(PeriodNotReady) as refused:
        close()
    assert refused.value.members["obstacles"] == ["days that are not reconciled: 1, 31 Jan 2026 the first of them"]
    reconcile(LAST)
    with pytest.raises(PeriodNotReady) as refused:
        close()
    assert refused.value.members["obstacles"] == ["open items: 1 (settle them, or carry them over to the next month)"]
    with pytest.raises(PeriodNotReady) as refused:
        close(FEBRUARY, carry_open=True)
    assert refused.value.members["obstacles"] == [
        "2026-01 is open, and comes first",
        "days that are not reconciled: 28, 01 Feb 2026 the first of them",
    ]
    this = selectors.month_of(database_now().date())
    with pytest.raises(PeriodNotReady, match="it ends on"):
        close(this)
    with pytest.raises(NoteMissing):
        close(note=" ")
    assert not PeriodClosing.objects.exists()


def test_a_month_that_nothing_proves_is_not_closed(reconcile):
    """Every day is reconciled and no item is open; and neither Stripe nor our ledger was asked."""
    sold("ch_1", at=NOON)
    reconcile(LAST)
    of_balance = "USD: the statement of 31 Jan 2026 was not held against Stripe's balance: "
    of_ledger = "USD: the statement of 31 Jan 2026 was not held against our clearing account: "

    def refused(**options: bool) -> Any:
        with pytest.raises(PeriodNotReady) as error:
            services.close_period(period=JANUARY, by="maria", note="month's end", **options)
        return error.value.members["obstacles"]

    unread = "not every row since 2026-01-31 was read"
    assert [one.partition(" (")[0] for one in refused()] == [of_balance + unread, of_ledger + unread]
    assert [one.partition(" (")[0] for one in refused(without_balance=True)] == [of_ledger + unread]
    was_read(LAST, LAST)
    (told,) = refused()
    assert told.startswith(of_balance + "no balance was read yet")
    provider_holds(1426, *ProviderTransaction.objects.values_list("id", flat=True))
    closing = services.close_period(period=JANUARY, by="maria", note="month's end")
    assert [proof["residual_minor"] for proof in closing.statements["usd"]["proofs"]] == [0, 0, 0]
    assert closing.note == "month's end"


def test_a_residual_of_the_balance_is_accepted_with_a_reason_and_then_the_month_closes(reconcile):
    """The provider holds 3.00 more than its rows say, of which it will not tell."""
    row = sold("ch_1", at=NOON)
    was_read(LAST, LAST + timedelta(days=1))
    provider_holds(1726, row)
    reconcile(LAST)
    with pytest.raises(PeriodNotReady, match=r"leaves \$3\.00 unexplained"):
        services.close_period(period=JANUARY, by="maria", note="month's end", carry_open=True)
    services.perform(discrepancy_id=the("usd:balance").pk, action="accept", by="test", note="Stripe knows of it")
    closing = services.close_period(period=JANUARY, by="maria", note="month's end")
    balance = closing.statements["usd"]["proofs"][0]
    assert (balance["residual_minor"], balance["accepted"]) == (300, True)
    provider_holds(1825, row)
    reconcile(LAST)
    assert (the("usd:balance").state, the("usd:balance").difference_minor) == ("open", 399)


def test_february_waits_while_january_is_asked_to_be_reopened(reconcile, monkeypatch):
    closed_january(reconcile)
    as_reconciled(FEBRUARY, date(2026, 2, 28))
    services.ask_reopening(period=JANUARY, by="maria", why="a row came late")
    with pytest.raises(PeriodNotReady, match="somebody asks for 2026-01 to be reopened"):
        close(FEBRUARY)
    monkeypatch.setattr(selectors, "obstacles", lambda *_, **__: [])  # it was looked at before somebody asked
    close(FEBRUARY)
    with pytest.raises(PeriodNotReady, match="2026-02 is closed"):
        services.approve_reopening(period=JANUARY, by="paul", why="I have seen it")
    assert state() == "reopening"


def test_rows_that_came_since_the_last_run_are_not_closed_over(reconcile):
    """The statement of the month is the sum of its rows, not what a run said of fewer."""
    both("ch_1", at=NOON)
    reconcile(LAST)
    theirs("ch_2", at=NOON)  # read, and not compared yet
    with pytest.raises(PeriodNotReady, match="changed since they were reconciled: 1, 31 Jan 2026"):
        close()
    reconcile(LAST)
    assert lines(close(carry_open=True)) == {"charge": (2, 2852)}


def test_open_items_are_carried_over_where_that_is_said(reconcile):
    theirs("ch_1", at=NOON)
    reconcile(LAST)
    assert the("ch_1").period == JANUARY
    assert close(carry_open=True).items["carried"] == 1
    assert the("ch_1").period == FEBRUARY
    services.perform(discrepancy_id=the("ch_1").pk, action="accept", by="clara", note="never mind")
    assert the("ch_1").period == FEBRUARY


def test_what_is_ignored_is_open_to_a_month_and_carried_over_only_where_that_is_said(reconcile):
    theirs("ch_1", at=NOON)
    reconcile(LAST)
    until = database_now().date() + timedelta(days=30)
    services.perform(
        discrepancy_id=the("ch_1").pk, action="ignore_until", by="test", note="later", given=ActionInput(until=until)
    )
    with pytest.raises(PeriodNotReady) as refused:
        close()
    (told,) = refused.value.members["obstacles"]
    assert told == "open items: 1, 1 of them ignored (settle them, or carry them over to the next month)"
    assert close(carry_open=True).items["carried"] == 1


def test_a_month_whose_payouts_nobody_listed_is_closed_by_saying_so(reconcile):
    """Both books know the payout, and it is on its way; what it is made of Stripe alone could say."""
    both("ch_1", at=NOON)
    our_payout("po_1", 1426, at=NOON, status="in_transit")
    booked("po_1", -1426, "payout", at=NOON)
    reconcile(LAST)
    with pytest.raises(PeriodNotReady) as refused:
        close()
    (told,) = refused.value.members["obstacles"]
    assert told.startswith(
        "USD: the statement of 31 Jan 2026 was not held against what its payouts collected: 0 of 1 payouts list their rows ("
    )
    closing = close(without_payouts=True)
    assert closing.note.endswith("(without Stripe's balance in USD) (without what payouts collected in USD)")
    (proof,) = (one for one in closing.statements["usd"]["proofs"] if one["name"] == "payouts")
    assert (proof["residual_minor"], proof["note"]) == (None, "0 of 1 payouts list their rows")


def test_a_payout_in_the_middle_of_the_month_is_proved_as_well(reconcile):
    """The month's last day has none."""
    before = NOON - timedelta(days=1)
    both("ch_1", at=before)
    our_payout("po_1", 1426, at=before, status="in_transit")
    booked("po_1", -1426, "payout", at=before)
    reconcile(LAST - timedelta(days=1))
    reconcile(LAST)
    with pytest.raises(PeriodNotReady, match="0 of 1 payouts list their rows"):
        close()
    assert close(without_payouts=True).number == 1


def test_by_command(reconcile, capsys):
    theirs("ch_1", at=NOON)
    reconcile(LAST)
    is_provable()
    with pytest.raises(CommandError) as refused:
        call_command("close_period", "2026-01")
    assert (refused.value.returncode, "open items: 1" in capsys.readouterr().err) == (1, True)
    call_command("close_period", "2026-01", "--carry-open", "--without-balance")
    told = capsys.readouterr().out
    assert "2026-01 is closed." in told
    assert "USD: $0.00 → $14.26" in told
    call_command("close_period", "2026-01")
    assert "nothing was changed" in capsys.readouterr().out
    with pytest.raises(CommandError):
        call_command("close_period", "2026-13")


# --- What comes late ------------------------------------------------------------------------------------


def test_what_comes_after_the_close_falls_into_the_next_open_month(reconcile):
    closed_january(reconcile)
    late_charge(reconcile)
    item = the("ch_late")
    assert (item.business_date, item.period) == (LAST.date(), FEBRUARY)
    ours("ch_3", 1000, at=datetime(2026, 2, 3, tzinfo=UTC))
    theirs("ch_3", 1000, at=datetime(2026, 2, 3, tzinfo=UTC), fee_minor=0, net_minor=1000)
    reconcile(datetime(2026, 2, 3, tzinfo=UTC))
    as_reconciled(FEBRUARY, date(2026, 2, 28))
    services.perform(discrepancy_id=item.pk, action="accept", by="clara", note="a late row")
    february = close(FEBRUARY)
    usd = february.statements["usd"]
    assert usd["opening_minor"] == PeriodClosing.objects.get(period=JANUARY).statements["usd"]["closing_minor"] == 1426
    assert lines(february, "late") == {"charge": (1, 3926)}
    assert lines(february) == {"charge": (1, 1000)}
    assert usd["closing_minor"] == 1426 + 3926 + 1000
    assert february.items["late"] == 1


def test_a_row_that_is_withdrawn_after_the_close_is_taken_back_in_the_next_month(reconcile):
    theirs("ch_gone", 2000, at=NOON)
    both("ch_1", at=NOON)
    reconcile(LAST)
    close(carry_open=True)
    ProviderTransaction.objects.filter(source="ch_gone").update(withdrawn_at=database_now())
    reconcile(LAST)
    as_reconciled(FEBRUARY, date(2026, 2, 28))
    february = close(FEBRUARY)
    assert lines(february, "late") == {"charge": (-1, -1926)}
    assert february.statements["usd"]["closing_minor"] == 1426


def test_what_was_booked_before_the_books_began_is_in_the_opening_balance(reconcile):
    """Though it was chained, before anybody had said when they begin."""
    ours("ch_old", at=NOON - timedelta(days=1))
    theirs("ch_old", at=NOON - timedelta(days=1), fee_minor=0, net_minor=1500)
    reconcile(LAST - timedelta(days=1))
    services.extend_chain()
    services.start_books(starts_on=LAST.date(), balances={"usd": 1426}, by="maria", note="go-live")
    closing = closed_january(reconcile)
    assert lines(closing) == {"charge": (1, 1426)}
    assert closing.statements["usd"]["opening_minor"] == 1426
    assert closing.statements["usd"]["closing_minor"] == 2852


def test_an_item_that_opens_again_belongs_to_the_open_month(reconcile):
    theirs("ch_1", at=NOON)
    reconcile(LAST)
    services.perform(discrepancy_id=the("ch_1").pk, action="accept", by="clara", note="never mind")
    close()
    assert the("ch_1").period == JANUARY  # settled there
    theirs("ch_1", 100, at=NOON)  # its figures changed
    reconcile(LAST)
    assert (the("ch_1").state, the("ch_1").period) == ("open", FEBRUARY)


# --- Entries of the ledger ------------------------------------------------------------------------------


def test_an_entry_is_never_dated_into_a_closed_month(reconcile):
    closed_january(reconcile)
    with connection.cursor() as cursor, transaction.atomic():
        entry = uuid4()
        cursor.execute(
            "INSERT INTO payments_account (id, kind, customer, currency, balance_minor)"
            " VALUES (%s, 'provider_clearing', '', 'usd', 0), (%s, 'fees', '', 'usd', 0) ON CONFLICT DO NOTHING",
            [CLEARING.id, ledger.fees("usd").id],
        )
        cursor.execute(
            "INSERT INTO payments_journalentry (id, kind, key, subject, reference, currency, memo, by, created_at)"
            " VALUES (%s, 'test', 'back-dated', '', '', 'usd', '', 'somebody', '2026-01-31 12:00+00')",
            [entry],
        )
        cursor.execute(
            "INSERT INTO payments_posting (entry_id, account_id, amount_minor, posted_at)"
            " VALUES (%s, %s, 7, '2026-01-31 12:00+00'), (%s, %s, -7, '2026-01-31 12:00+00')",
            [entry, CLEARING.id, entry, ledger.fees("usd").id],
        )
    sealed = PeriodClosing.objects.get().sealed_through
    assert JournalEntry.objects.get(key="back-dated").created_at >= sealed
    assert not Posting.objects.filter(posted_at__lt=sealed).exists()


def test_not_even_where_a_clock_says_that_the_month_is_not_over(reconcile):
    """As if the clock had been turned back behind the cut on which the month was closed."""
    closed_january(reconcile)
    ahead = database_now() + timedelta(hours=1)
    number = BookCut.objects.latest("number").number if BookCut.objects.exists() else 0
    BookCut.objects.create(number=number + 1, at=ahead, postings=0)
    post("after")
    assert JournalEntry.objects.get(key="after").created_at >= ahead


def test_postgresql_closes_no_month_into_which_entries_can_still_be_posted(reconcile):
    """And refuses a closed month that nothing describes: whoever writes past our services."""
    both("ch_1", at=NOON)
    reconcile(LAST)
    this = Period.objects.get(pk=selectors.month_of(database_now().date()))
    blank: dict[str, Any] = {
        "closed_by": "maria",
        "note": "x",
        "books_begin": JANUARY,
        "statements": {},
        "items": {},
        "trial_balance": [],
    }
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        PeriodClosing.objects.create(period=this, number=1, sealed_through=database_now(), after=0, head=0, **blank)
    assert violated(refused) == "period_closes_on_settled_books"
    january = Period.objects.filter(pk=JANUARY)
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        january.update(state="closed", closings=1)
    assert violated(refused) == "period_closed_has_its_closing"
    close()
    payments.seal_books(through=datetime(2026, 4, 1, tzinfo=UTC))
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        march = Period.objects.get(pk=MARCH)
        PeriodClosing.objects.create(period=march, number=1, sealed_through=database_now(), after=0, head=0, **blank)
        Period.objects.filter(pk=MARCH).update(state="closed", closings=1)
    assert violated(refused) == "period_closes_in_order"


@contextmanager
def sleeper_of_january():
    """A transaction that posted into January, when that was now, and does not commit. Past the trigger that dates entries:
    nobody can wait for January any more."""
    post("known")
    ids = {"entry": uuid4(), "clearing": CLEARING.id, "customer": CUSTOMER.id, "at": NOON}
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("SET session_replication_role = replica")
        other.execute(
            "INSERT INTO payments_journalentry (id, kind, key, subject, reference, currency, memo, by, created_at)"
            " VALUES (%(entry)s, 'test', 'late', '', '', 'usd', '', 'sleeper', %(at)s)",
            ids,
        )
        other.execute(
            "INSERT INTO payments_posting (entry_id, account_id, amount_minor, posted_at)"
            " VALUES (%(entry)s, %(clearing)s, 7, %(at)s), (%(entry)s, %(customer)s, -7, %(at)s)",
            ids,
        )
        yield other


def posted_in_january() -> int:
    found = Posting.objects.filter(posted_at__lt=datetime(2026, 2, 1, tzinfo=UTC), amount_minor__gt=0)
    return found.aggregate(total=Sum("amount_minor"))["total"] or 0


def told_of_january(closing: PeriodClosing) -> int:
    return sum(one["debit_minor"] for one in closing.trial_balance)


def test_a_posting_that_is_under_way_holds_up_the_close_and_then_it_is_in(reconcile, settings, monkeypatch):
    monkeypatch.setattr(
        selectors, "obstacles", lambda *_, **__: []
    )  # nothing of the provider's stands for what it posts
    both("ch_1", at=NOON)
    reconcile(LAST)
    settings.BOOKS_SETTLE_WAIT_S = 0
    with sleeper_of_january() as other:
        with pytest.raises(BooksNotSettled):
            close()
        assert state() == "open"
        other.commit()
    settings.BOOKS_SETTLE_WAIT_S = 20
    assert told_of_january(close()) == posted_in_january() == 7


def test_control_without_that_wait_it_lands_in_a_closed_month(reconcile, monkeypatch):
    both("ch_1", at=NOON)
    reconcile(LAST)
    monkeypatch.setattr("payments.books.settled_moment", lambda *, wait_s: database_now() if wait_s >= 0 else None)
    with sleeper_of_january() as other:
        closing = close()
        other.commit()
    assert told_of_january(closing) == 0
    assert posted_in_january() == 7


# --- Two at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_of_two_closes_at_once_one_counts(race, reconcile, turns):
    both("ch_1", at=NOON)
    reconcile(LAST)
    race.stop("reconciliation.services.periods._the_open", at="after")
    race.stop("reconciliation.services.periods._write_down", at="before")
    race.actor("a", lambda: close(by="maria").number)
    race.actor("b", lambda: close(by="paul").number)
    results = race.play(turns)
    assert sorted(type(result).__name__ for result in results.values()) == ["PeriodIsClosed", "int"]
    assert PeriodClosing.objects.count() == 1


def test_control_of_two_closes_without_the_guards_both_count(race, reconcile, monkeypatch, unguarded):
    both("ch_1", at=NOON)
    reconcile(LAST)
    monkeypatch.setattr(periods, "one_writer", lambda **_: transaction.atomic())
    monkeypatch.setattr(periods, "_the_open", lambda period, *, locked: Period(starts_on=period))
    monkeypatch.setattr(periods, "_move", lambda *_, **__: None)
    unguarded.unique("reconciliation_periodclosing", "period_closing_once_per_number")
    race.stop("reconciliation.services.periods._write_down", at="before")
    race.actor("a", lambda: close(by="maria").number)
    race.actor("b", lambda: close(by="paul").number)
    race.play("a b a b")
    assert PeriodClosing.objects.count() == 2


# --- Reopening --------------------------------------------------------------------------------------------


def test_two_people_reopen_a_month_and_closed_again_it_says_what_changed(reconcile):
    first = closed_january(reconcile)
    late_charge(reconcile)
    services.ask_reopening(period=JANUARY, by="maria", why="a row came late")
    assert state() == "reopening"
    with pytest.raises(SecondPersonNeeded):
        services.approve_reopening(period=JANUARY, by="maria", why="I am sure")
    assert state() == "reopening"
    services.approve_reopening(period=JANUARY, by="paul", why="I have seen it")
    assert (state(), the("ch_late").period) == ("open", JANUARY)
    services.perform(discrepancy_id=the("ch_late").pk, action="accept", by="clara", note="it is what it is")
    second = close(by="paul")
    assert (second.number, second.after) == (2, first.after)
    assert second.differences == {
        "since": 1,
        "reopened": {
            "asked_by": "maria",
            "why": "a row came late",
            "approved_by": "paul",
            "approved_why": "I have seen it",
        },
        "statement": [
            {"currency": "usd", "line": "charge", "before_minor": 1426, "after_minor": 5352},
            {"currency": "usd", "line": "closing", "before_minor": 1426, "after_minor": 5352},
        ],
        "rows": {"added": 1, "changed": 0},
        "items": [
            {
                "item": the("ch_late").number,
                "kind": "missing_in_our_system",
                "state_before": None,
                "state": "resolved",
                "difference_before": None,
                "difference": "4000",
                "currency": "usd",
            }
        ],
        "item_count": 1,
    }


def test_a_refusal_keeps_it_closed_and_may_be_the_first_persons_own(reconcile):
    closed_january(reconcile)
    for by in ("paul", "maria"):
        services.ask_reopening(period=JANUARY, by="maria", why="a row came late")
        services.refuse_reopening(period=JANUARY, by=by, why="it did not")
        assert state() == "closed"
    with pytest.raises(NothingToApprove):
        services.approve_reopening(period=JANUARY, by="paul", why="yes")
    assert list(Period.objects.get(pk=JANUARY).history.order_by("id").values_list("to_state", flat=True)) == [
        *("closed", "reopening", "closed", "reopening", "closed")
    ]


def test_an_open_month_is_not_reopened_and_a_later_one_goes_first(reconcile):
    closed_january(reconcile)
    with pytest.raises(PeriodIsOpen):
        services.ask_reopening(period=FEBRUARY, by="maria", why="why not")
    as_reconciled(FEBRUARY, date(2026, 2, 28))
    close(FEBRUARY)
    with pytest.raises(PeriodNotReady, match="2026-02 is closed"):
        services.ask_reopening(period=JANUARY, by="maria", why="a row came late")
    services.ask_reopening(period=FEBRUARY, by="maria", why="a row came late")
    with pytest.raises(IllegalTransition):
        services.ask_reopening(period=FEBRUARY, by="paul", why="me too")


@pytest.mark.guard(15)
def test_postgresql_reopens_nothing_for_one_person(reconcile):
    closing = closed_january(reconcile)
    january = Period.objects.filter(pk=JANUARY)
    january.update(state="reopening")
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        january.update(state="open")
    assert violated(refused) == "period_reopened_by_two"
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        PeriodReopening.objects.create(
            closing=closing,
            asked_by="maria",
            why="a row came late",
            decision="approved",
            decided_by="maria",
            decided_why="I am sure",
            decided_at=database_now(),
        )
    assert violated(refused) == "period_reopening_takes_a_second_person"
    question = PeriodReopening.objects.create(closing=closing, asked_by="maria", why="a row came late")
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        PeriodReopening.objects.filter(pk=question.pk).update(
            decision="approved", decided_by="maria", decided_why="I am sure", decided_at=database_now()
        )
    assert violated(refused) == "period_reopening_takes_a_second_person"
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        PeriodReopening.objects.filter(pk=question.pk).update(decision="approved")
    assert violated(refused) == "period_reopening_decision_has_a_name"


def test_what_was_written_down_stays(reconcile):
    closing = closed_january(reconcile)
    reopened()
    for change in (
        lambda: PeriodClosing.objects.filter(pk=closing.pk).update(closed_by="somebody else"),
        lambda: PeriodClosing.objects.filter(pk=closing.pk).delete(),
        lambda: PeriodReopening.objects.update(asked_by="somebody else"),
        lambda: PeriodReopening.objects.update(decided_by="somebody else"),
        lambda: PeriodReopening.objects.all().delete(),
        lambda: Period.objects.filter(pk=FEBRUARY).delete(),
    ):
        with pytest.raises(Exception, match=r"Cannot|protected"), transaction.atomic():
            change()
