"""Cuts, snapshots and statements say what the postings say, whoever commits late; the daily proof finds what does not."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import psycopg
import pytest
from django.db import connection, transaction
from django.db.models import Sum
from django.test import override_settings

from foundation.database import database_now
from foundation.money import UnknownCurrency
from payments import books, ledger, services
from payments.errors import BooksNotSettled
from payments.models import Account, BalanceSnapshot, BookCut, BooksCheck, JournalEntry, KindTotal, Posting
from payments.services.books import LAWS, check_books_of_today
from tests.payments.test_ledger import CLEARING, CUSTOMER, FEES, MERCHANT, post
from tests.shop import settle

pytestmark = pytest.mark.django_db(transaction=True)
TODAY = date(2026, 1, 1)  # whose day a proof is, the proof does not care


@pytest.fixture(autouse=True)
def small_steps(settings):
    settings.BOOKS_CUT_POSTINGS = 4
    settings.BOOKS_SNAPSHOT_POSTINGS = 2
    settings.BOOKS_CHECK_BATCH = 3
    # The other tests' transactions, on the same server, are waited for.
    settings.BOOKS_SETTLE_WAIT_S = settings.BOOKS_REPORT_WAIT_S = 60


def trade(times: int, *, amount_minor: int = 100) -> None:
    for _ in range(times):
        post(str(uuid4()), amount_minor)


def summed(account: ledger.AccountKey, **which) -> int:
    return Posting.objects.filter(account_id=account.id, **which).aggregate(total=Sum("amount_minor"))["total"] or 0


def proof() -> list[dict[str, str]]:
    differences: list[dict[str, str]] = services.check_books(day=TODAY).differences
    return differences


@contextmanager
def as_superuser() -> Iterator[None]:
    """Past every trigger, as somebody with the keys to the database may write."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
        yield


@pytest.fixture
def sleeper():
    """A transaction on a connection of its own, which has posted 7 and does not commit."""
    trade(1)
    post("fee", 1, debit=FEES, credit=CLEARING)
    ids = {"entry": uuid4(), "clearing": CLEARING.id, "fees": FEES.id}
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute(
            "INSERT INTO payments_journalentry (id, kind, key, subject, reference, currency, memo, by)"
            " VALUES (%(entry)s, 'test', 'late', '', '', 'usd', '', 'sleeper')",
            ids,
        )
        other.execute(
            "INSERT INTO payments_posting (entry_id, account_id, amount_minor)"
            " VALUES (%(entry)s, %(clearing)s, 7), (%(entry)s, %(fees)s, -7)",
            ids,
        )
        yield other


# --- Cuts ---------------------------------------------------------------------------------------------------


def test_cuts_are_made_of_full_batches_and_say_what_the_postings_say():
    trade(11)
    assert services.cut_books() == 5
    assert services.cut_books() == 0  # the rest waits until there is enough of it
    assert list(BookCut.objects.order_by("number").values_list("number", "postings")) == [
        (number, 4) for number in range(1, 6)
    ]
    for cut in BookCut.objects.all():
        for account in (CLEARING, CUSTOMER):
            kept = BalanceSnapshot.objects.get(account_id=account.id, at=cut.at)
            assert kept.balance_minor == summed(account, posted_at__lt=cut.at)
            assert kept.postings == 2 * cut.number
    assert proof() == []


def test_a_day_that_ended_is_cut_however_little_was_posted():
    trade(1)
    assert services.cut_books() == 0
    with as_superuser():
        Posting.objects.update(posted_at=database_now() - timedelta(days=3))
    assert services.cut_books() == 1
    assert BookCut.objects.get().at.astimezone(UTC).time() == datetime.min.time()
    assert services.cut_books() == 0


def test_books_are_sealed_at_a_moment_though_nothing_was_posted():
    """From then on no entry bears an earlier moment, whatever its INSERT says: months close behind such a cut."""
    through = datetime(2026, 2, 1, tzinfo=UTC)
    assert services.seal_books(through=through) == through
    assert services.seal_books(through=through - timedelta(days=31)) == through  # sealed already
    assert list(BookCut.objects.values_list("number", "at", "postings")) == [(1, through, 0)]
    trade(3)
    ahead = database_now() - timedelta(microseconds=1)
    sealed = services.seal_books(through=ahead)
    assert sealed >= ahead
    assert BookCut.objects.latest("number").at == sealed
    assert proof() == []
    with pytest.raises(BooksNotSettled):
        services.seal_books(through=database_now() + timedelta(hours=1))


def test_more_lines_of_one_moment_than_a_batch_holds_are_one_cut():
    with transaction.atomic():
        ledger.post_lines(key="wide", kind="test", lines=[(CLEARING, 10), *[(FEES, -1)] * 10], by="test")
    trade(3)
    assert services.cut_books() > 0
    assert BookCut.objects.earliest("number").postings == 11
    assert proof() == []


def test_an_account_with_few_lines_has_no_snapshot_and_the_right_balance(settings):
    settings.BOOKS_SNAPSHOT_POSTINGS = 3
    post("one", credit=ledger.customer_account(MERCHANT, "rare", "usd"))
    trade(4)
    services.cut_books()
    rare = ledger.customer_account(MERCHANT, "rare", "usd")
    assert not BalanceSnapshot.objects.filter(account_id=rare.id).exists()
    assert books.balances([rare.id, CLEARING.id, CUSTOMER.id]) == {rare.id: -100, CLEARING.id: 500, CUSTOMER.id: -400}


def test_a_balance_reads_only_what_was_posted_since(settings):
    """What stands before the last snapshot is not looked at: were it changed, the balance would not notice."""
    trade(6)
    services.cut_books()
    last = BalanceSnapshot.objects.filter(account_id=CLEARING.id).latest("at")
    with as_superuser():
        Posting.objects.filter(posted_at__lt=last.at, amount_minor__gt=0).update(amount_minor=1_000_000)
    assert books.balance(CLEARING.id) == 600
    assert {one["law"] for one in proof()} >= {"snapshots_are_the_postings", "totals_are_the_postings"}


# --- Late commits -------------------------------------------------------------------------------------------


def test_a_transaction_that_is_not_over_holds_up_the_cut_and_then_it_is_in(sleeper, settings):
    settings.BOOKS_SETTLE_WAIT_S = 0.2
    trade(6)  # with higher ids and later moments, and committed
    assert services.cut_books() == 0
    settings.BOOKS_SETTLE_WAIT_S = 60
    sleeper.commit()
    assert services.cut_books() > 0
    assert books.balance(CLEARING.id) == summed(CLEARING) == 706
    assert proof() == []


def test_one_that_is_rolled_back_is_over_too(sleeper):
    trade(6)
    sleeper.rollback()
    assert services.cut_books() > 0
    assert proof() == []


def test_one_that_only_reads_holds_up_nothing(sleeper):
    sleeper.rollback()
    sleeper.execute("SELECT count(*) FROM payments_posting")
    trade(6)
    assert services.cut_books() > 0


def test_one_that_has_a_number_but_has_posted_nothing_yet_holds_up_the_cut(sleeper, settings):
    """Its postings will bear later moments than the cut's; to know that, one would have to know what it will do."""
    sleeper.rollback()
    sleeper.execute("SELECT pg_current_xact_id()")
    settings.BOOKS_SETTLE_WAIT_S = 0.2
    trade(6)
    assert services.cut_books() == 0


@pytest.mark.parametrize("lag", ["by the clock", "by the highest id"])
def test_control_a_cut_that_trusts_a_clock_or_an_id_loses_the_late_posting(sleeper, monkeypatch, lag):
    trade(6)
    moment = database_now() if lag == "by the clock" else Posting.objects.latest("id").posted_at
    monkeypatch.setattr(books, "settled_moment", lambda *, wait_s: moment)
    assert services.cut_books() > 0
    sleeper.commit()
    assert books.balance(CLEARING.id) != summed(CLEARING)
    assert "snapshots_are_the_postings" in {one["law"] for one in proof()}  # and the proof finds it


def test_a_clock_that_is_turned_back_dates_nothing_before_a_cut():
    trade(6)
    services.cut_books()
    with as_superuser():  # as if the clock had been an hour ahead when the cut was made
        last = BookCut.objects.latest("number")
        BookCut.objects.filter(number=last.number).update(at=last.at + timedelta(hours=1))
        BalanceSnapshot.objects.filter(at=last.at).update(at=last.at + timedelta(hours=1))
    trade(1)
    assert Posting.objects.latest("id").posted_at == last.at + timedelta(hours=1)


def test_nothing_is_settled_while_the_clock_asks_inside_a_transaction():
    with transaction.atomic():
        assert books.settled_moment(wait_s=0) is None


# --- Balances and totals as of a moment ---------------------------------------------------------------------


def test_balances_and_totals_of_every_moment_are_those_of_the_postings():
    trade(9)
    moments = [database_now()]
    post("fee", 3, debit=FEES, credit=CLEARING)
    post("euro", 50, debit=ledger.clearing("eur"), credit=ledger.write_offs("eur"))
    services.cut_books()
    trade(3)
    moments += [*Posting.objects.values_list("posted_at", flat=True), database_now()]
    for at in moments:
        assert books.balance(CLEARING.id, at=at) == summed(CLEARING, posted_at__lt=at)
        trial = books.trial_balance(at=at)
        for line in trial.lines:
            lines = Posting.objects.filter(account__kind=line.kind, account__currency=line.currency, posted_at__lt=at)
            assert line.debit_minor == sum(one.amount_minor for one in lines if one.amount_minor > 0)
            assert line.credit_minor == -sum(one.amount_minor for one in lines if one.amount_minor < 0)
        assert [trial.off_minor(currency) for currency in trial.currencies] == [0] * len(trial.currencies)
    assert trial.currencies == ["eur", "usd"]
    assert books.balance_history(CLEARING.id, moments) == [books.balance(CLEARING.id, at=at) for at in moments]


def test_a_trial_balance_of_no_books_is_empty():
    assert books.trial_balance(at=database_now()).lines == []


def test_a_trial_balance_is_final_once_nobody_can_post_before_it(sleeper, settings):
    at = database_now()
    settings.BOOKS_REPORT_WAIT_S = 0.2
    assert not books.trial_balance(at=at).is_final
    sleeper.commit()
    settings.BOOKS_REPORT_WAIT_S = 60
    assert books.trial_balance(at=at).is_final
    assert not books.trial_balance(at=database_now() + timedelta(hours=1)).is_final


# --- Statements ---------------------------------------------------------------------------------------------


def test_a_statement_opens_runs_and_closes_page_by_page():
    trade(3)
    since = database_now()
    trade(8, amount_minor=10)
    post("fee", 5, debit=FEES, credit=CLEARING)
    until = database_now()
    trade(2)
    services.cut_books()
    after, pages = None, []
    while True:
        page = books.statement_page(CLEARING.id, since=since, until=until, after=after, limit=4)
        pages.append(page)
        if not page.has_more:
            break
        after = page.lines[-1].place
    assert [len(page.lines) for page in pages] == [4, 4, 1]
    assert (pages[0].opening_minor, pages[-1].closing_minor) == (300, 375)
    assert all(one.closing_minor == two.opening_minor for one, two in pairwise(pages))
    lines = [line for page in pages for line in page.lines]
    assert [line.balance_minor for line in lines] == [310, 320, 330, 340, 350, 360, 370, 380, 375]
    assert lines == list(books.statement_lines(CLEARING.id, since=since, until=until))
    assert (lines[-1].debit_minor, lines[-1].credit_minor, lines[-1].kind) == (0, 5, "test")


def test_a_statement_of_a_quiet_period_opens_and_closes_alike():
    trade(3)
    at = database_now()
    page = books.statement_page(CLEARING.id, since=at, until=at + timedelta(days=1), after=None, limit=10)
    assert (page.opening_minor, page.lines, page.closing_minor, page.has_more) == (300, [], 300, False)


def test_a_place_reads_back_and_nonsense_is_none():
    place = books.Place(datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), 7)
    assert books.Place.parse(str(place)) == place
    for nonsense in ("", "x", "2026-01-01_7", "2026-01-01T00:00:00+00:00_x", "2026-01-01T00:00:00+00:00_-1"):
        assert books.Place.parse(nonsense) is None


def test_a_statement_of_an_account_with_many_lines_reads_its_index_alone():
    """Neither the whole table nor the whole account: a page deep inside costs what the first one costs."""
    trade(30)
    services.cut_books()
    with connection.cursor() as cursor:
        # What autovacuum learnt of other tests' few rows would be planned for: forget it.
        cursor.execute("SELECT pg_clear_relation_stats('public', 'payments_posting')")
        for column in ("account_id", "posted_at", "id"):
            cursor.execute("SELECT pg_clear_attribute_stats('public', 'payments_posting', %s, false)", [column])
        cursor.execute("SET enable_seqscan = off")  # a small table is read whole whatever its indexes
        try:
            middle = books.statement_page(
                CLEARING.id,
                since=datetime(2020, 1, 1, tzinfo=UTC),
                until=database_now(),
                after=books.Place(Posting.objects.filter(account_id=CLEARING.id)[20].posted_at, 0),
                limit=3,
            )
            cursor.execute("EXPLAIN " + _explained(books._PAGE))
            plan = "\n".join(row[0] for row in cursor.fetchall())
        finally:
            cursor.execute("RESET enable_seqscan")
    assert len(middle.lines) == 3
    assert plan.count("posting_of_account") == 2, plan  # the opening, and the page
    assert "Seq Scan on payments_posting" not in plan


def _explained(statement: str) -> str:
    values = {
        "account": f"'{CLEARING.id}'::uuid",
        "since": "now()",
        "until": "now()",
        "after_at": "now()",
        "after_id": "5",
        "limit": "3",
    }
    return statement % values


# --- The daily proof ----------------------------------------------------------------------------------------


def test_books_that_agree_are_proved_in_silence(shop):
    shop.bought()
    sold = shop.bought()
    shop.post(f"/payments/{sold['payments'][0]['number']}/refunds", {"amount": 300, "reason": "torn"})
    settle()
    services.cut_books()
    check = services.check_books(day=TODAY)
    assert (check.found, check.differences) == (0, [])
    assert check.rows > 20


DAMAGES = {
    "postings_add_up_to_zero": "UPDATE payments_posting SET amount_minor = amount_minor + 1 WHERE amount_minor > 0",
    "totals_are_the_postings": "UPDATE payments_kindtotal SET debit_minor = debit_minor + 1",
    "snapshots_are_the_postings": "UPDATE payments_balancesnapshot SET balance_minor = balance_minor + 1",
    "balances_are_the_postings": "UPDATE payments_account SET balance_minor = 5 WHERE kind = 'customer'",
    "captured_is_the_ledger": "UPDATE payments_payment SET captured_minor = captured_minor + 1",
    "refunded_is_the_ledger": "UPDATE payments_refund SET amount_minor = amount_minor + 1",
    "refunded_is_its_refunds": "UPDATE payments_payment SET refunded_minor = refunded_minor - 1 WHERE refunded_minor > 0",
    "debts_are_the_ledger": "UPDATE payments_payment SET refunds_owed_minor = refunds_owed_minor + 1",
}


def test_every_law_finds_its_damage(shop):
    sold = shop.bought()
    shop.post(f"/payments/{sold['payments'][0]['number']}/refunds", {"amount": 300, "reason": "torn"})
    settle()
    services.cut_books()
    assert KindTotal.objects.exists()
    assert len(LAWS) == len(DAMAGES)
    unseen = {}
    for law, damage in DAMAGES.items():
        with as_superuser(), override_settings(BOOKS_CHECK_BATCH=1), connection.cursor() as cursor:
            cursor.execute(damage)
        check = services.check_books(day=TODAY)
        if law not in {one["law"] for one in check.differences}:
            unseen[law] = check.differences
        assert check.found >= 1
        _undo(damage)
    assert not unseen
    assert proof() == []


def _undo(damage: str) -> None:
    backwards = damage.replace("_minor + 1", "_minor - 1") if "+ 1" in damage else damage.replace("- 1", "+ 1")
    with as_superuser(), connection.cursor() as cursor:
        cursor.execute(backwards.replace("= 5", "= 0"))


def test_the_proof_is_done_once_a_day_and_again_when_asked():
    trade(1)
    assert check_books_of_today()
    assert not check_books_of_today()
    day = BooksCheck.objects.get().day
    with as_superuser():
        Account.objects.filter(pk=CUSTOMER.id).update(balance_minor=1)
    assert services.check_books(day=day).found == 1
    assert BooksCheck.objects.get().found == 1


def test_what_is_posted_while_the_proof_runs_is_no_difference(race):
    trade(3)
    race.stop("payments.services.books._batches", at="before", actor="proof")
    race.actor("proof", proof)
    race.actor("trade", lambda: trade(3))
    assert race.play("proof trade proof")["proof"] == []


# --- Corrections --------------------------------------------------------------------------------------------


def test_an_adjustment_names_the_old_entry_and_is_taken_back_once():
    post("fee", 30, debit=FEES, credit=CLEARING)
    old = JournalEntry.objects.get(key="fee")
    new = services.adjust_entry(
        old.pk, debit="write_offs", credit="fees", amount_minor=30, cause="press 1", by="m", why="not a fee"
    )
    again = services.adjust_entry(
        old.pk, debit="write_offs", credit="fees", amount_minor=30, cause="press 1", by="m", why="not a fee"
    )
    assert new == again
    entry = JournalEntry.objects.get(pk=new)
    assert (entry.corrects_id, entry.kind, entry.memo, entry.by) == (old.pk, "adjustment", "not a fee", "m")
    assert books.balance(FEES.id) == 0
    back = services.reverse_entry(new, by="m", why="it was a fee")
    assert services.reverse_entry(new, by="other", why="again") == back
    assert books.balance(FEES.id) == 30
    assert JournalEntry.objects.count() == 3


def test_points_are_moved_to_no_account_of_ours():
    post("earned", 5, debit=ledger.points_issued(MERCHANT), credit=ledger.points(MERCHANT, "reader"))
    earned = JournalEntry.objects.get(key="earned")
    with pytest.raises(UnknownCurrency):
        services.adjust_entry(
            earned.pk, debit="write_offs", credit="fees", amount_minor=5, cause="press 1", by="m", why="too many"
        )
